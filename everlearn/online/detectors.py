"""Detectors of drift, by name: each is told an error in [0, 1], 1 being wrong, and says whether errors have risen.

They are those of river, of which no two agree about what 1 means, which way a change may go, or what they can be
saved as; here all do.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from math import inf, isfinite
from random import Random
from types import MappingProxyType, MethodType
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from everlearn.spec import Spec, nearest, one_of, parse, parse_chain
from everlearn.streams.feed import Label

Side = Literal["up", "both"]


@runtime_checkable
class Detector(Protocol):
    """Watches one sequence of errors."""

    @property
    def name(self) -> str:
        """As a user types it, settings included."""
        ...

    def update(self, error: float) -> bool:
        """Takes the next error, from 0 (right) to 1 (wrong): whether the errors have drifted, as far as it can say."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has become, in tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Becomes that again, and goes on bit for bit."""
        ...


@dataclass(frozen=True)
class Kind:
    """What there is to know about one of river's detectors."""

    place: str
    """Module and class."""
    settings: Mapping[str, tuple[float, float, float]]
    """By name: the default, and the least and the greatest value. One whose default is whole is whole."""
    bits: bool = False
    """Whether it counts errors, so that half an error would be none."""
    asks_right: bool = False
    """Whether it looks for a fall in what is right, where others look for a rise in what is wrong."""
    side: str = ""
    """How it is told which way to look: its own setting; "window" where that is read from its window; "" if it cannot
    look for less error."""
    source: str = ""


_SURE = (1e-12, 1 - 1e-12)
"""What a confidence or significance lies within."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "adwin": Kind(
            "river.drift.ADWIN",
            {
                "delta": (0.002, *_SURE),
                "clock": (32, 1, 1 << 20),
                "max_buckets": (5, 1, 1 << 10),
                "min_window_length": (5, 1, 1 << 20),
                "grace_period": (10, 1, 1 << 20),
            },
            side="window",
            source="Bifet and Gavaldà, SDM 2007. doi:10.1137/1.9781611972771.42",
        ),
        "page-hinkley": Kind(
            "river.drift.PageHinkley",
            {
                "min_instances": (30, 1, 1 << 30),
                "delta": (0.005, 0, 1),
                "threshold": (50.0, 0, inf),
                "alpha": (0.9999, 0, 1),
            },
            side="mode",
            source="Page, Biometrika 1954. doi:10.1093/biomet/41.1-2.100",
        ),
        "hddm-w": Kind(
            "river.drift.binary.HDDMW",
            {"drift_confidence": (0.001, *_SURE), "warning_confidence": (0.005, *_SURE), "lambda_val": (0.05, *_SURE)},
            side="two_sided_test",
            source="Frías-Blanco et al., TKDE 2015. doi:10.1109/TKDE.2014.2345382",
        ),
        "hddm-a": Kind(
            "river.drift.binary.HDDMA",
            {"drift_confidence": (0.001, *_SURE), "warning_confidence": (0.005, *_SURE)},
            side="two_sided_test",
            source="Frías-Blanco et al., TKDE 2015. doi:10.1109/TKDE.2014.2345382",
        ),
        "ddm": Kind(
            "river.drift.binary.DDM",
            {"warm_start": (30, 1, 1 << 30), "warning_threshold": (2.0, 0, inf), "drift_threshold": (3.0, 0, inf)},
            source="Gama et al., SBIA 2004. doi:10.1007/978-3-540-28645-5_29",
        ),
        "fhddm": Kind(
            "river.drift.binary.FHDDM",
            {"sliding_window_size": (100, 1, 1 << 20), "confidence_level": (1e-6, *_SURE)},
            asks_right=True,
            source="Pesaranghader and Viktor, ECML-PKDD 2016. doi:10.1007/978-3-319-46227-1_7",
        ),
        "eddm": Kind(
            "river.drift.binary.EDDM",
            {"warm_start": (30, 1, 1 << 30), "alpha": (0.95, 0, 1), "beta": (0.9, 0, 1)},
            bits=True,
            source="Baena-García et al., 2006",
        ),
        "kswin": Kind(
            "river.drift.KSWIN",
            {
                "alpha": (0.005, *_SURE),
                "window_size": (100, 2, 1 << 20),
                "stat_size": (30, 1, 1 << 20),
                "seed": (0, 0, inf),
            },
            side="window",
            source="Raab et al., Neurocomputing 2020. doi:10.1016/j.neucom.2019.11.111",
        ),
    }
)
"""The detectors there are, by the name a user types."""

DEFAULT = "adwin+page-hinkley"


def detector(text: str) -> Detector:
    """The detector that `text` names, with its settings: "adwin:delta=0.01", "page-hinkley:side=both".

    `side=up`, the default, is about more error only: a learner that gets better has no drift to answer. Where a
    detector can look for less error, too, `side=both` makes it.

    >>> detector("adwin").update(0.0)
    False
    """
    return River(parse(text))


def detectors(text: str) -> list[Detector]:
    """Several, joined by `+`.

    >>> [each.name for each in detectors("adwin:delta=0.01+ddm")]
    ['adwin:delta=0.01', 'ddm']
    """
    made: list[Detector] = [River(spec) for spec in parse_chain(text)]
    names = [each.name for each in made]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{text!r} names {double[0]!r} twice; one of them tells as much")
    return made


class River:
    """One of river's detectors, under the one convention, with a state of plain values."""

    def __init__(self, spec: Spec) -> None:
        self.kind = KINDS[one_of("detector", spec.name, KINDS)]
        self.name = str(spec)
        given = dict(spec.settings)
        self.side = str(given.pop("side", "up"))
        if self.side not in (("up", "both") if self.kind.side else ("up",)):
            able = "up or both" if self.kind.side else "up: it cannot look for less error"
            raise ValueError(f"{self.name}: side must be {able}, but is {self.side!r}")
        settings = {
            name: _checked(self.name, name, given.pop(name, None), limits)
            for name, limits in self.kind.settings.items()
        }
        for name in given:
            known = [*settings, *(["side"] if self.kind.side else [])]
            raise ValueError(f"{spec.name} has no setting {name!r}{nearest(name, known)}; it has {', '.join(known)}")
        if self.kind.side == "mode":
            settings["mode"] = self.side
        elif self.kind.side == "two_sided_test":
            settings["two_sided_test"] = self.side == "both"
        module, _, name = self.kind.place.rpartition(".")
        try:
            self._made: Any = vars(import_module(module))[name](**settings)
        except ImportError as error:
            raise ImportError("detectors of drift need river: pip install 'everlearn[online]'") from error
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def update(self, error: float) -> bool:
        """Takes the next error, from 0 (right) to 1 (wrong): whether the errors have drifted."""
        if not 0 <= error <= 1:
            raise ValueError(f"an error lies between 0 (right) and 1 (wrong), but this one is {error!r}; see `Bounded`")
        if self.kind.bits and 0 < error < 1:
            raise ValueError(f"{self.name} counts errors, which are 0 or 1, but was given {error!r}; take adwin")
        made = self._made
        by_window = self.kind.side == "window" and self.side == "up"
        before = _level(made) if by_window else 0.0
        made.update(1.0 - error if self.kind.asks_right else float(error))
        return bool(made.drift_detected) and (not by_window or _level(made) > before)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, by the names of river's attributes; and of which version of river they are."""
        return {"detector": self.name, "river": version("river"), "inside": _read(self._made)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` gave: a ValueError if that was another detector, or of another river."""
        ours = {"detector": self.name, "river": version("river")}
        for what, mine in ours.items():
            if state[what] != mine:
                raise ValueError(
                    f"the state is of a detector with {what} {state[what]!r}, but here it is {mine!r}; "
                    "only the same one can go on with it"
                )
        self._made = _written(self._made, state["inside"])

    def __repr__(self) -> str:
        return f"detector({self.name!r})"


class Bounded:
    """Makes an error in [0, 1] of an answer: for a class 0 or 1; for a number that is off by a, a / (a + s).

    s is the mean of all a before; this row does not count, or the first one after many that were right would not be
    wholly wrong. As far off as usual is 1/2, right is 0, and no number is so far off that it would count for more than
    one. What was usual is counted from the first row on, so an error that has risen stays above 1/2 for as long as it
    took to learn what was usual: long enough for a detector.

    >>> errors = Bounded()
    >>> errors.update(10.0, 12.0), errors.update(10.0, 12.0), errors.update(10.0, 16.0), errors.update("rain", "sun")
    (0.5, 0.5, 0.75, 1.0)
    """

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        """The sum of how far numbers were off, and how many there were."""

    def update(self, predicted: Label, actual: Label) -> float:
        """The error of one row, which then counts among those before. ValueError where one of both is not finite."""
        if isinstance(predicted, str) or isinstance(actual, str):
            return float(predicted != actual)
        off = abs(float(predicted) - float(actual))
        if not isfinite(off):
            raise ValueError(f"predicted {predicted!r} and actual {actual!r} must both be finite numbers")
        usual = self.total / self.count if self.count else off
        self.total, self.count = self.total + off, self.count + 1
        return 1 / (1 + usual / off) if off else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What it has counted."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.total, self.count = state["total"], state["count"]


def _checked(text: str, name: str, value: Any, limits: tuple[float, float, float]) -> Any:
    """The value of a setting, or its default; a ValueError where it is of the wrong kind, or out of bounds."""
    default, low, high = limits
    if value is None:
        return default
    whole = isinstance(default, int)
    kind: Any = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        bounds = f"of at least {low:g}" if high == inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{text}: {name} must be {what} {bounds}, but is {value!r}")
    return value if whole else float(value)


def _level(made: Any) -> float:
    """The mean of what is in the window of a detector that has one."""
    if type(made).__name__ == "ADWIN":
        return float(made.estimation)
    return sum(made.window) / len(made.window) if made.window else 0.0


_PARTS = frozenset(
    {
        *("river.drift.adwin.ADWIN", "river.drift.page_hinkley.PageHinkley", "river.drift.kswin.KSWIN"),
        *("river.drift.binary.hddm_w.HDDMW", "river.drift.binary.hddm_a.HDDMA", "river.drift.binary.ddm.DDM"),
        *("river.drift.binary.fhddm.FHDDM", "river.drift.binary.eddm.EDDM", "river.drift.binary.hddm_w.SampleInfo"),
        *("river.stats.mean.Mean", "river.stats.var.Var", "river.stats.ewmean.EWMean"),
    }
)
"""Classes whose state is what their attributes say."""

_OPAQUE = frozenset({"river._river_rust.drift.AdaptiveWindowing", "river._river_rust.stats.RsEWMean"})
"""Classes whose state is bytes that they give and take: numbers, one after another, and no code."""


def _read(value: Any) -> Any:
    """The state of a part of a detector: a plain value, a tensor, or a dict or list of them."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value)  # numpy's, too
    if isinstance(value, deque):
        return list(map(_read, value))
    if isinstance(value, Random):
        kind, words, pending = value.getstate()
        return [kind, torch.tensor(words), pending]
    name = _class(value)
    if name in _OPAQUE:
        return torch.frombuffer(bytearray(value.__getstate__()), dtype=torch.uint8)
    if name in _PARTS:  # a bound method was chosen by the settings
        return {part: _read(held) for part, held in vars(value).items() if not isinstance(held, MethodType)}
    raise TypeError(f"river {version('river')} keeps a {name} in a detector, and nothing here knows how to save one")


def _written(fresh: Any, state: Any) -> Any:
    """`fresh`, a part of a detector made alike, after it has become what `_read` gave; the state names no class."""
    if isinstance(fresh, deque):
        return deque(state, maxlen=fresh.maxlen)
    if isinstance(fresh, Random):
        kind, words, pending = state
        fresh.setstate((kind, tuple(words.tolist()), pending))
        return fresh
    name = _class(fresh)
    if name in _OPAQUE:
        fresh.__setstate__(bytes(state.tolist()))
    elif name in _PARTS:
        for part, held in state.items():
            setattr(fresh, part, _written(vars(fresh)[part], held))
    else:
        return state
    return fresh


def _class(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
