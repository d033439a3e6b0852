"""Whether our mean is the published one: spreads, confidence intervals, and the tolerance between two samples."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MEANING = {
    "sd": "standard deviation over seeds, with n - 1 in the denominator; null for one seed",
    "ci95": "half the width of the 95 % confidence interval of the mean, Student's t with n - 1 degrees of freedom",
    "tolerance": "3 sqrt(sd^2 / n + their_sd^2 / their_n) + slack; with one seed, our sd is taken to be theirs",
}


@dataclass(frozen=True)
class Published:
    """A published mean, its standard deviation (not the error of the mean) over `runs`, and the slack allowed.

    The slack is for what papers do not say: it is added to three standard errors of the difference.
    """

    mean: float
    sd: float
    runs: int
    slack: float = 1.0


@dataclass(frozen=True)
class Sample:
    """The values of one score, one for each seed."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """The sample of these values."""
        if not len(values):
            raise ValueError("a sample needs at least one value")
        return cls(tuple(map(float, values)))

    @property
    def n(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Their standard deviation; None for one value."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def ci95(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean; None for one value."""
        return None if self.sd is None else student95(self.n - 1) * self.sd / math.sqrt(self.n)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"mean": self.mean, "sd": self.sd, "n": self.n, "ci95": self.ci95}

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


def tolerance(ours: Sample, theirs: Published) -> float:
    """How far two means of one and the same quantity may lie apart: three standard errors, and the slack.

    >>> round(tolerance(Sample.of([1.0, 2.0, 3.0]), Published(0.0, 1.0, 3, slack=0.5)), 4)
    2.9495
    """
    sd = theirs.sd if ours.sd is None else ours.sd
    return 3 * math.sqrt(sd**2 / ours.n + theirs.sd**2 / theirs.runs) + theirs.slack


def agrees(ours: Sample, theirs: Published) -> bool:
    """Whether the means are within the tolerance; the last digit of a float does not decide."""
    return abs(ours.mean - theirs.mean) <= tolerance(ours, theirs) + 1e-9


def student95(freedom: int) -> float:
    """The t that Student's distribution stays within, either side, with probability 0.95.

    >>> [round(student95(freedom), 3) for freedom in (1, 2, 4, 9)]
    [12.706, 4.303, 2.776, 2.262]
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, not {freedom}")
    low, high = 0.0, math.pi / 2
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
