"""Policies from what a user types: `never`, `retrain:every=7d,window=30d`, `er:memory=1000`, `finetune:every=1d+si`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from everlearn.backtest.alarm import Alarm
from everlearn.backtest.baselines import Majority, NoChange
from everlearn.backtest.policy import Policy, Schedule
from everlearn.backtest.setup import Setup
from everlearn.backtest.trained import Drifting, FineTune, Never, Online, Retrain
from everlearn.methods import METHODS
from everlearn.methods.composition import parameters
from everlearn.online.detectors import DEFAULT
from everlearn.online.span import Span
from everlearn.spec import Spec, nearest, one_of, parse_chain


def make_policy(text: str, setup: Setup) -> Policy:
    """The policy that `text` names; a method behind a + is what holds on to the old.

    A method alone is `online` with that method, or with `every` among its settings `finetune` with it.
    """
    head, method = _parts(text)
    make, known = POLICIES[head.name]
    if known is not None:
        for key in head.settings:
            if key not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"{text}: {head.name} has no setting {key!r}{nearest(key, known)}; {has}")
    try:
        return make(_Asked(text, dict(head.settings), method, setup))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(text) else f"{text}: {said}") from error


@dataclass(frozen=True)
class _Asked:
    """What somebody typed, in parts."""

    text: str
    settings: dict[str, Any]
    method: str
    setup: Setup

    @property
    def given(self) -> dict[str, Any]:
        """What all policies that train take."""
        epochs = {"epochs": self.whole("epochs", 0)} if "epochs" in self.settings else {}
        return {"method": self.method or "naive", **epochs}

    def whole(self, name: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but is {value!r}")
        return value

    def truth(self, name: str) -> bool:
        """True or false."""
        value = self.settings.get(name, False)
        if value not in (True, False):
            raise ValueError(f"{name} must be true or false, but is {value!r}")
        return bool(value)

    def joined(self, name: str, default: str) -> str:
        """Names that are joined by |, as what follows a + is a method."""
        return str(self.settings.get(name, default)).replace("|", "+")

    def span(self, name: str) -> Span:
        """A time or rows, if the log has such."""
        span = Span.of(self.settings[name], name)
        if span.timed and not self.setup.archive.timed:
            raise ValueError(f"the log has no times; name their column by --time, or give {name} in rows")
        return span

    @property
    def window(self) -> Span | None:
        """What is learned from; None: all."""
        if self.settings.get("window", "all") == "all":
            return None
        window = self.span("window")
        if not window.amount:
            raise ValueError("a window of 0 holds no rows; give a time, rows, or all")
        return window

    @property
    def schedule(self) -> Schedule | Alarm:
        """When it learns: by the calendar, by rows, or when errors rise."""
        archive, every = self.setup.archive, self.settings.get("every")
        if every is None:
            raise ValueError("it needs to know when: every=7d, every=1000 rows, or every=drift")
        if every == "drift":
            return Alarm(archive, self.joined("detector", DEFAULT), self.whole("cooldown", 500))
        for key in ("detector", "cooldown"):
            if key in self.settings:
                raise ValueError(f"{key} is for every=drift")
        span = self.span("every")
        if not span.amount or span.amount < (self.setup.gap if span.timed else 1):
            apart = f", and rows are {Span(self.setup.gap, timed=True)} apart" if span.timed else ""
            raise ValueError(f"every={every} is less than a row{apart}; to learn with each row, take online")
        return Schedule(span, archive, self.setup.warm)


def _never(asked: _Asked) -> Policy:
    if asked.method:
        raise ValueError(f"never learns nothing new, so there is nothing for {asked.method} to do; leave it out")
    return Never(asked.text, asked.setup)


def _retrain(asked: _Asked) -> Policy:
    warm, window = asked.truth("warm"), asked.window
    return Retrain(asked.text, asked.setup, asked.schedule, window=window, warm=warm, **asked.given)


def _finetune(asked: _Asked) -> Policy:
    if not asked.settings:  # no border is named, as for a method alone
        return Online(asked.text, asked.setup, **asked.given)
    return FineTune(asked.text, asked.setup, asked.schedule, **asked.given)


def _online(asked: _Asked) -> Policy:
    return Online(asked.text, asked.setup, batch=asked.whole("batch", 1), **asked.given)


def _odl(asked: _Asked) -> Policy:
    batch = asked.whole("batch", 1)
    own = [parameter.name for parameter in parameters(METHODS["hedge"])]
    rule = {key: value for key, value in asked.settings.items() if key in own}
    net = {key: value for key, value in asked.settings.items() if key not in {*own, "batch"}}
    method = "+".join([*([asked.method] if asked.method else []), str(Spec("hedge", rule))])
    return Online(asked.text, asked.setup, batch=batch, model=str(Spec("hedge", net)), method=method)


def _drift(asked: _Asked) -> Policy:
    found, reactions = asked.joined("detector", DEFAULT), asked.joined("reaction", "boost")
    cooldown = asked.whole("cooldown", 500)
    return Drifting(asked.text, asked.setup, found=found, reactions=reactions, cooldown=cooldown, **asked.given)


def _baseline(cls: Callable[..., Policy]) -> Callable[[_Asked], Policy]:
    def make(asked: _Asked) -> Policy:
        if asked.method:
            raise ValueError(f"it has no model, so there is nothing for {asked.method} to do; leave it out")
        return cls(asked.text, asked.setup.archive)

    return make


POLICIES: Mapping[str, tuple[Callable[[_Asked], Policy], tuple[str, ...] | None]] = {
    "never": (_never, ()),
    "retrain": (_retrain, ("every", "window", "epochs", "warm", "detector", "cooldown")),
    "finetune": (_finetune, ("every", "epochs", "detector", "cooldown")),
    "online": (_online, ("batch",)),
    "odl": (_odl, None),
    "drift": (_drift, ("detector", "reaction", "cooldown")),
    "no-change": (_baseline(NoChange), ()),
    "majority": (_baseline(Majority), ()),
}
"""By name: what makes it, and its settings; those of `odl` are those of the model and of the method `hedge`."""


def _parts(text: str) -> tuple[Spec, str]:
    """The policy and, as text, the methods behind it."""
    first, *rest = parse_chain(text)
    if first.name not in POLICIES:
        if first.name not in METHODS:
            known = f"{', '.join(POLICIES)}, or a method to learn with online, as er:memory=1000"
            raise ValueError(
                f"there is no policy {first.name!r}{nearest(first.name, {*POLICIES, *METHODS})}; known: {known}"
            )
        own = {parameter.name for parameter in parameters(METHODS[first.name])}
        mine = {key: value for key, value in first.settings.items() if key in {"every", "epochs", "batch"} - own}
        left = Spec(first.name, {key: value for key, value in first.settings.items() if key not in mine})
        first, rest = Spec("finetune" if "every" in mine else "online", mine), [left, *rest]
    for spec in rest:
        one_of("method", spec.name, METHODS)
    return first, "+".join(map(str, rest))
