"""How sure a mean over a stream is: 95 % confidence intervals, for independent rows, and for others.

Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
Batch means: Alexopoulos and Seila, Output data analysis for simulations, WSC 2001.
"""

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist, mean, stdev

_Z = NormalDist().inv_cdf(0.975)

FEWEST, LEAST = 32, 16
"""An interval by blocks needs so many blocks, of so many rows."""


def wilson(right: float, rows: float, z: float = _Z) -> tuple[float, float]:
    """Where the chance of being right lies, as far as `rows` independent rows tell.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    share, per = right / rows, z * z / rows
    middle = (share + per / 2) / (1 + per)
    half = z / (1 + per) * sqrt(share * (1 - share) / rows + per / (4 * rows))
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass
class Blocks:
    """Sums over blocks of consecutive rows: of 32 to 63 blocks, whose size doubles as rows come.

    The means of blocks tell how much a mean over the stream may be off where neighbouring rows are alike: what is
    assumed is that rows further apart than a block are independent, and that nothing drifts. A drift makes it wider.
    """

    size: int = 1
    sums: list[float] = field(default_factory=list)
    begun: float = 0.0
    held: int = 0
    """The sum over the block that is not full yet, and its rows."""

    def add(self, value: float) -> None:
        """The value of the next row."""
        self.begun += value
        self.held += 1
        if self.held == self.size:
            self.sums.append(self.begun)
            self.begun, self.held = 0.0, 0
            if len(self.sums) == 2 * FEWEST:
                self.sums = [a + b for a, b in zip(self.sums[::2], self.sums[1::2], strict=True)]
                self.size *= 2

    def half(self) -> float | None:
        """Half of the 95 % interval, by Student's t; None while blocks are few, or too short to differ from rows."""
        if len(self.sums) < FEWEST or self.size < LEAST:
            return None
        means = [total / self.size for total in self.sums]
        return _student(len(means) - 1) * stdev(means, mean(means)) / sqrt(len(means))

    def state_dict(self) -> dict[str, float | list[float]]:
        """All of it."""
        return {"size": self.size, "sums": list(self.sums), "begun": self.begun, "held": self.held}


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion of Cornish and Fisher: to 1e-4 from 30 degrees on."""
    z = _Z
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
