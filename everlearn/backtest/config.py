"""What a backtest is asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from everlearn.backtest.setup import Training
from everlearn.backtest.verdict import BASELINES
from everlearn.border import one_of, positive
from everlearn.online.span import Span


@dataclass(frozen=True)
class Config(Training):
    """The settings of a backtest; with the same ones the same comes out, but for the seconds."""

    log: str
    out: str
    policies: tuple[str, ...] = ()
    label: str = ""
    time: str = ""
    id: str = ""
    features: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    label_delay: str = ""
    label_time: str = ""
    warmup: str = "10%"
    task: str = "classification"
    sort: bool = False

    def __post_init__(self) -> None:
        one_of("task", self.task, ("classification", "regression"))
        positive(epochs=self.epochs, batch_size=self.batch_size)
        if self.clip < 0:
            raise ValueError(f"clip must be at least 0, but is {self.clip}")
        if self.label_delay and self.label_time:
            raise ValueError(
                "--label-delay says how late all labels are, --label-time which column knows it; give one of them"
            )
        twice = {text for text in self.policies if self.policies.count(text) > 1}
        if twice:
            raise ValueError(f"the policies {', '.join(sorted(twice))} are there twice; give each once")

    @property
    def asked(self) -> tuple[str, ...]:
        """All policies, with those that are always shown."""
        return (*self.policies, *(name for name in BASELINES if name not in self.policies))

    @property
    def delay(self) -> Span | str | None:
        """How late labels are."""
        return self.label_time or (Span.of(self.label_delay, "--label-delay") if self.label_delay else None)

    def absolute(self) -> "Config":
        """The same, from wherever it is read."""
        log = self.log if "://" in self.log else str(Path(self.log).resolve())
        return replace(self, log=log, out=str(Path(self.out).resolve()))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Config":
        """From what `to_json` gave."""
        known = {field.name for field in fields(cls)}
        given: Any = {name: value for name, value in values.items() if name in known}
        lists: Any = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**{**given, **lists})

    def differs(self, other: "Config") -> list[str]:
        """In which settings, as far as they decide about the answers of a policy: not which other ones there are."""
        mine, theirs = self.to_json(), other.to_json()
        return [
            f"{name}: {theirs[name]!r} then, {mine[name]!r} now"
            for name in mine
            if name not in {"out", "policies"} and mine[name] != theirs[name]
        ]
