"""A policy: when a model is updated as labels arrive, and on what."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everlearn.backtest.archive import Archive
from everlearn.online.span import Span
from everlearn.streams.feed import Label


@dataclass
class Effort:
    """What a policy did."""

    trained: int = 0
    """Rows that went through the model to be learned after the warm-up, each time that they did, and as replayed."""
    updates: int = 0
    """How often the model became another one, after the warm-up."""
    kept: int = 0
    """The most labelled rows that had to be kept at one time."""
    newest: int = -1
    """The newest row whose label was learned; -1: none."""

    def keep(self, rows: int) -> None:
        """Notes that so many rows are kept now."""
        self.kept = max(self.kept, rows)

    def learn(self, rows: Sequence[int], passed: int) -> None:
        """Notes that these rows were learned, by so many that went through the model."""
        self.updates += 1
        self.trained += passed
        self.newest = max(self.newest, *rows, -1)


class Policy(ABC):
    """Sees labels as they arrive, says when it is due, and answers between two updates with the model that it has.

    Between two updates it must answer alike, however rows are put together: rows are asked in blocks then.
    """

    looks = False
    """Whether it looks at what it served, once the label is there."""

    def __init__(self, text: str, archive: Archive) -> None:
        self.text, self.archive, self.effort = text, archive, Effort()

    @abstractmethod
    def warm_up(self, rows: Sequence[int]) -> None:
        """Begins with what is known at the end of the warm-up."""

    @abstractmethod
    def arrive(self, rows: Sequence[int]) -> None:
        """The labels of these rows are known now; nothing is learned yet."""

    @abstractmethod
    def due(self, now: int) -> bool:
        """Whether it would become another one before row `now` is asked."""

    @abstractmethod
    def update(self, now: int) -> None:
        """Becomes it."""

    @abstractmethod
    def answer(self, rows: Sequence[int]) -> list[Label]:
        """What is said of these rows. Nothing changes."""

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return {"effort": asdict(self.effort)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        self.effort = Effort(**state["effort"])


class Schedule:
    """Every so many rows, or every so much time, counted from where the warm-up ended, as cron does.

    What falls into a gap of the log is not made up for: after it, the next turn is the next multiple.
    """

    def __init__(self, every: Span, archive: Archive, start: int) -> None:
        self.every, self.archive, self.start = every, archive, start
        self.turn = 1

    def due(self, now: int) -> bool:
        """Whether the next turn has come when row `now` is asked."""
        return self._passed(now) >= self.turn

    def done(self, now: int) -> None:
        """Waits for the first turn after now."""
        self.turn = self._passed(now) + 1

    def hear(self, rows: Sequence[int]) -> None:
        """A calendar does not listen."""

    def state_dict(self) -> dict[str, Any]:
        """Which turn is next."""
        return {"turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Waits for that one."""
        self.turn = state["turn"]

    def _passed(self, now: int) -> int:
        if self.every.timed:
            return int((self.archive.clock(now) - self.archive.clock(self.start)) // self.every.amount)
        return int((now - self.start) // self.every.amount)
