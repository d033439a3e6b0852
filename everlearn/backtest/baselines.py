"""What needs no model, and what every model should beat: the last label, and the most frequent one."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from everlearn.backtest.archive import Archive
from everlearn.backtest.policy import Policy
from everlearn.streams.feed import Label


class _Baseline(Policy):
    """Becomes another one with each label that arrives."""

    def __init__(self, text: str, archive: Archive) -> None:
        super().__init__(text, archive)
        self.waiting: list[int] = []

    def warm_up(self, rows: Sequence[int]) -> None:
        """Begins with these labels."""
        self.waiting = list(rows)
        self.update(0)

    def arrive(self, rows: Sequence[int]) -> None:
        """They wait for the next row to be asked."""
        self.waiting += rows

    def due(self, now: int) -> bool:  # noqa: ARG002 (a policy is told where it is)
        """As soon as there is something new."""
        return bool(self.waiting)

    def update(self, now: int) -> None:  # noqa: ARG002
        """Takes what is new."""
        rows, self.waiting = self.waiting, []
        self.take(rows)
        self.effort.newest = max(self.effort.newest, *rows)

    def take(self, rows: Sequence[int]) -> None:
        """Counts these rows in."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.waiting = list(state["waiting"])


class NoChange(_Baseline):
    """All stays as it is: the newest label that is known."""

    last: Label

    def take(self, rows: Sequence[int]) -> None:
        """The label of the newest row, whatever the order in which labels come."""
        newest = max(rows)
        if newest > self.effort.newest:
            (self.last,) = self.archive.labels([newest])

    def answer(self, rows: Sequence[int]) -> list[Label]:
        """That label."""
        return [self.last] * len(rows)

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.last = state["last"]


class Majority(_Baseline):
    """The most frequent label so far, of equals the one that was first; of numbers their mean."""

    def __init__(self, text: str, archive: Archive) -> None:
        super().__init__(text, archive)
        self.counts: Counter[str] = Counter()
        self.total, self.rows = 0.0, 0

    def take(self, rows: Sequence[int]) -> None:
        """Counts them."""
        for label in self.archive.labels(rows):
            self.rows += 1
            if isinstance(label, str):
                self.counts[label] += 1
            else:
                self.total += label

    def answer(self, rows: Sequence[int]) -> list[Label]:
        """That label."""
        best = self.total / self.rows if self.archive.regression else self.counts.most_common(1)[0][0]
        return [best] * len(rows)

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"counts": dict(self.counts), "total": self.total, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.counts, self.total, self.rows = Counter(state["counts"]), state["total"], state["rows"]
