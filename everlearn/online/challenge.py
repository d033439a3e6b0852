"""A challenger learns beside the model after a drift, and takes its place only if it is shown to be better."""

# ruff: noqa: ARG002 (a verb is given what every reaction might want)

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import log
from typing import Any, ClassVar, Literal

from everlearn.border import NonFiniteError, finite_state
from everlearn.memory import Memory
from everlearn.method import links
from everlearn.online.engine import Online
from everlearn.online.evidence import evidence
from everlearn.online.latest import Latest
from everlearn.online.reaction import Learn, Reaction, raised
from everlearn.randomness import mix, seeded, unmoved
from everlearn.streams.feed import Label, Record


@dataclass
class Challenge(Reaction):
    """Both answer each row before it is learned; who wins where they differ decides.

    With `start=copy` the challenger is a copy of the engine, which learns the same rows at `factor` times the rate.
    With `start=fresh` it is what `make` makes: an engine by the same recipe that has learned nothing.
    For the first `learns` rows it only learns. After that, a row counts for the one that was right where the other was
    wrong (for numbers: that was nearer). As soon as the `evidence` that the challenger is the better one reaches
    1/alpha, the engine becomes what the challenger is. If that has not happened after `rows` rows, the challenger is
    dropped. So of the challengers that are never better, at most `alpha` win, though all rows are looked at. A drift
    in the meantime changes nothing about it.
    """

    name: ClassVar[str] = "challenge"

    rows: int = 1000
    alpha: float = 0.05
    learns: int = 200
    factor: float = 5.0
    start: Literal["copy", "fresh"] = "copy"
    seed: int = 0
    """Of what the challenger's own layers draw: dropout, say."""
    make: Callable[[], Online] | None = field(default=None, repr=False)

    wins: int = field(default=0, init=False)
    losses: int = field(default=0, init=False)
    place: int = field(default=0, init=False)
    """Rows that the challenger has learned."""
    steps: int = field(default=0, init=False)
    """Steps that all challengers have taken."""
    rival: Online | dict[str, Any] | None = field(default=None, init=False, repr=False)
    """The challenger, or, until it is needed, its state in a checkpoint; None: there is none."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha, the chance of a swap for nothing, must lie between 0 and 1, but is {self.alpha}")
        if self.start not in ("copy", "fresh"):
            raise ValueError(f"start must be copy or fresh, but is {self.start!r}")
        if self.start == "fresh" and self.make is None:
            raise ValueError(
                "start=fresh needs to know how an engine is made: Drift(..., make=lambda: make_online(...))"
            )

    def check(self, online: Online) -> None:
        """Two engines must not write the same files, and what `make` makes must be able to take the engine's place."""
        memories = [value for method in links(online.learner.method) for value in vars(method).values()]
        if any(isinstance(memory, Memory) and memory.folder is not None for memory in memories):
            raise ValueError(
                "a challenger has a memory of its own, so it cannot lie on disk; keep it in RAM (folder=None)"
            )
        if self.start == "fresh":
            try:
                deepcopy(online).load_state_dict(self._new(online).state_dict())
            except (ValueError, RuntimeError, KeyError) as error:
                raise ValueError(f"what make() makes cannot take the place of the engine: {error}") from error

    def begin(self, online: Online, latest: Latest) -> str:
        """A challenger begins, unless there is one."""
        if self.rival is not None:
            return f"the challenger goes on; it has learned {self.place} rows"
        self.wins = self.losses = self.place = 0
        self.rival = self._new(online)
        return f"a challenger begins, {'as a copy' if self.start == 'copy' else 'anew'}"

    def learn(
        self, online: Online, records: Sequence[Record], labels: Sequence[Label], latest: Latest, rest: Learn
    ) -> float | None:
        """Both answer, then both learn; then it may be decided."""
        if self.rival is None:
            return rest(records, labels)
        rival = self._revived(online, self.rival)
        won, lost = self._compared(online, rival, records, labels) if self.place >= self.learns else (0, 0)
        loss = rest(records, labels)
        self.steps, self.wins, self.losses = self.steps + 1, self.wins + won, self.losses + lost
        try:
            with seeded(mix(self.seed, self.steps)), raised(rival.learner.optimizer, self._rate):
                rival.learn(records, labels)
            finite_state(dict(rival.learner.model.state_dict()), "the weight")  # or else it could not be saved
        except NonFiniteError:
            self._end("dropped, as its weights did not stay finite")
            return loss
        self.place += len(records)
        if self.proof >= -log(self.alpha):
            with unmoved(online.learner.device):  # the state of a challenger has that of the global generators in it
                online.load_state_dict(rival.state_dict())
            self._end("won, and has taken the place of the model")
        elif self.place >= self.learns + self.rows:
            self._end("dropped")
        return loss

    @property
    def proof(self) -> float:
        """The `evidence` that the challenger is the better one."""
        return evidence(self.wins, self.losses)

    def state_dict(self) -> dict[str, Any]:
        """What has become of it, and the whole of the challenger."""
        rival = self.rival
        return super().state_dict() | {
            "rival": rival if rival is None or isinstance(rival, dict) else rival.state_dict()
        }

    @property
    def _rate(self) -> float:
        return self.factor if self.start == "copy" else 1.0

    def _end(self, how: str) -> None:
        self.rival = None
        self.news.append(f"the challenger {how}: right alone {self.wins}, wrong alone {self.losses} times")

    def _new(self, online: Online) -> Online:
        if self.start == "copy" or self.make is None:
            return deepcopy(online)
        with unmoved(online.learner.device):
            rival = self.make()
            encoder = deepcopy(online.encoder)  # fields and classes that have been met stay known, and where they are
            rival.grow(encoder)
        return rival

    def _revived(self, online: Online, rival: Online | dict[str, Any]) -> Online:
        """The challenger, made from its state where that is all there is."""
        if isinstance(rival, dict):
            state = rival
            with unmoved(online.learner.device):
                rival = self._new(online)
                rival.load_state_dict(state)
            self.rival = rival
        return rival

    def _compared(
        self, online: Online, rival: Online, records: Sequence[Record], labels: Sequence[Label]
    ) -> tuple[int, int]:
        """How many rows only the challenger has right, and how many only the engine; of numbers, nearer."""
        ours = [_off(each.answer, label) for each, label in zip(online.predict(records), labels, strict=True)]
        its = [_off(each.answer, label) for each, label in zip(rival.predict(records), labels, strict=True)]
        pairs = list(zip(its, ours, strict=True))
        return sum(its < ours for its, ours in pairs), sum(ours < its for its, ours in pairs)


def _off(answer: Label, label: Label) -> float:
    """How far an answer is off; for classes 0 or 1."""
    if isinstance(answer, str) or isinstance(label, str):
        return float(answer != label)
    return abs(answer - label)
