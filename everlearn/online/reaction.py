"""A reaction to drift: it wraps learning, as a method wraps the loss."""

# ruff: noqa: ARG002 (a verb is given what every reaction might want)

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch.optim import Optimizer

from everlearn.online.engine import Online
from everlearn.online.latest import Latest
from everlearn.streams.feed import Label, Record

Learn = Callable[[Sequence[Record], Sequence[Label]], float | None]
"""Learns rows, and gives the loss."""


@dataclass
class Reaction:
    """Two verbs. As it stands it does nothing about a drift: whoever reads the events does (`alert`).

    Fields that `__init__` takes are settings; fields with `init=False` are what has become of it, which a checkpoint
    carries. There is no third kind.
    """

    name: ClassVar[str] = "alert"

    news: list[str] = field(default_factory=list, init=False)
    """What has become of it since somebody last took note."""

    @property
    def wants(self) -> int:
        """How many of the latest rows it has to be able to see."""
        return 0

    def check(self, online: Online) -> None:
        """Raises a ValueError if it can do nothing for such an engine: before the first row, not at the first drift."""

    def begin(self, online: Online, latest: Latest) -> str:
        """There is drift: begins, or begins again, and says what was begun."""
        return ""

    def learn(
        self,
        online: Online,
        records: Sequence[Record],
        labels: Sequence[Label],
        latest: Latest,
        rest: Learn,
    ) -> float | None:
        """Called for all rows that are learned, `latest` being those before; `rest` learns, once."""
        return rest(records, labels)

    def state_dict(self) -> dict[str, Any]:
        """What has become of it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.init}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)


@contextmanager
def raised(optimizer: Optimizer | None, factor: float) -> Iterator[None]:
    """The learning rate of each group times `factor`, for a while; afterwards they are what they were."""
    groups = [] if optimizer is None else optimizer.param_groups
    before = [(group, group["lr"]) for group in groups]
    for group, rate in before:
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in before:
            group["lr"] = rate
