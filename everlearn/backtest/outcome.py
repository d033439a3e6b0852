"""What came of one policy: how often its answers were wrong, how old what it knew was, and what it took."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from everlearn.backtest.paired import Array
from everlearn.backtest.policy import Effort
from everlearn.backtest.replay import Replay
from everlearn.metrics.prequential import Prequential

POINTS = 120
"""Places of a curve, about."""


@dataclass(frozen=True)
class Outcome:
    """One policy on one log. `errors` are those of the answers that were served, of rows with a label, in order."""

    name: str
    errors: Array
    """1 for a wrong answer and 0 for a right one; of numbers, how far off they were."""
    curve: tuple[tuple[float, float], ...]
    """Over rows of the log: the mean error of the answers around."""
    readings: dict[str, float]
    """What `Prequential` reads at the end."""
    effort: Effort
    seconds: dict[str, float]
    age: float
    """How long ago the newest row was asked whose label had been learned: the mean over all answers."""
    age95: float
    """The age that 95 of 100 answers stay below."""

    @property
    def error(self) -> float:
        """The share of wrong answers, or the mean absolute error."""
        return float(self.errors.mean())

    def to_json(self) -> dict[str, Any]:
        """All but the errors of single rows, as plain values."""
        return {
            "error": self.error,
            "rows": len(self.errors),
            "readings": {name: value if math.isfinite(value) else None for name, value in self.readings.items()},
            "age": {"mean": self.age, "p95": self.age95},
            "effort": {name: value for name, value in asdict(self.effort).items() if name != "newest"},
            "seconds": dict(self.seconds),
            "curve": [list(point) for point in self.curve],
        }


def outcome_of(replay: Replay) -> Outcome:
    """What came of a replay that is done."""
    log, warm = replay.log, replay.warm
    pairs = [
        (i, replay.answers[i - warm], label) for i, label in enumerate(log.labels[warm:], warm) if label is not None
    ]
    if not pairs:
        raise ValueError(f"no row after the warm-up of {warm:,} has a label, so no answer can be told right from wrong")
    scored = [row for row, _, _ in pairs]
    meter = Prequential("error" if log.regression else "accuracy", window=window(len(scored)))
    for _, answer, label in pairs:
        meter.update(answer, label)
    errors = np.array([_error(answer, label) for _, answer, label in pairs])
    clock = np.asarray(log.clock)
    ages = clock[warm:] - clock[np.asarray(replay.newest)]
    return Outcome(
        replay.policy.text,
        errors,
        curve(np.asarray(scored, dtype=np.float64), errors),
        dict(meter.reading()),
        replay.policy.effort,
        dict(replay.seconds),
        float(ages.mean()),
        float(np.quantile(ages, 0.95)),
    )


def window(rows: int) -> int:
    """How many rows a point of a curve is the mean of."""
    return max(20, min(2000, rows // 25))


def curve(places: Array, errors: Array) -> tuple[tuple[float, float], ...]:
    """The mean error of the last `window` rows, at some places; the first is where the first window is full."""
    size = min(window(len(errors)), len(errors))
    sums = np.concatenate([[0.0], np.cumsum(errors)])
    ends = np.unique(np.linspace(size, len(errors), POINTS).astype(int))
    return tuple((float(places[end - 1]), float(sums[end] - sums[end - size]) / size) for end in ends)


def _error(answer: Any, label: Any) -> float:
    return float(answer != label) if isinstance(label, str) else abs(float(answer) - label)
