"""Is one policy better than another on the same rows? Errors near in time are alike, so whole blocks are drawn.

Circular block bootstrap (Politis & Romano 1992) of the mean difference; blocks are twice as long as Politis & White
(2004), as corrected by Patton, Politis & White (2009), find from the differences themselves. Theirs is the length at
which the variance has the least squared error; it is then too small, and intervals hold the truth too seldom. For the
same reason quantiles are those of Student's t with as many degrees of freedom as there are blocks, less one.
"""

import math
from dataclasses import dataclass

import numpy as np

from everlearn.randomness import mix

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DRAWS = 2000
"""Resamples behind an interval."""

NORMAL = 1.959964
"""The quantile of the normal distribution behind an interval of 95 %."""

FEWEST = 10
"""Blocks below which an interval is not to be trusted."""


@dataclass(frozen=True)
class Difference:
    """A mean difference, and the interval that holds the true one in 95 of 100 cases."""

    mean: float
    low: float
    high: float
    block: int
    """Rows of a block."""
    blocks: float
    """How many blocks there are."""

    @property
    def shown(self) -> bool:
        """Whether the rows show a difference at all: the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def difference(first: Array, second: Array, *, seed: int = 0) -> Difference:
    """How much more `first` has than `second`, on average, of two series over the same rows in time."""
    away = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    count, mean = len(away), float(away.mean())
    if not np.ptp(away):
        return Difference(mean, mean, mean, 1, count)
    length = max(1, min(2 * block_length(away), count // 3))
    wider = _student(count / length - 1) / NORMAL * math.sqrt(count / (count - length))
    means = wider * _resampled(away - mean, length, np.random.default_rng(mix(seed, count)))
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(mean, mean + float(low), mean + float(high), length, count / length)


def _student(degrees: float) -> float:
    """The quantile of Student's t behind an interval of 95 %, by the expansion of Cornish and Fisher.

    >>> [round(_student(degrees), 2) for degrees in (5, 20, 1e9)]
    [2.57, 2.09, 1.96]
    """
    z = NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def block_length(series: Array) -> int:
    """How many rows a block should have: about as far as what is in the series reaches."""
    count = len(series)
    away = series - series.mean()
    most = min(count - 1, math.ceil(math.sqrt(count)) + max(5, math.ceil(math.log10(count))))
    covariances = np.array([away[: count - lag] @ away[lag:] / count for lag in range(most + 1)])
    if covariances[0] <= 0:
        return 1
    reach = _reach(covariances / covariances[0], count)
    lags = np.arange(-reach, reach + 1)
    share = np.abs(lags) / reach
    window = np.where(share <= 0.5, 1.0, 2 * (1 - share)) * covariances[np.abs(lags)]
    spread, slope = window.sum(), (window * np.abs(lags)).sum()
    longest = math.ceil(min(3 * math.sqrt(count), count / 3))
    if spread <= 0:
        return longest
    best = (2 * slope**2 / (4 / 3 * spread**2)) ** (1 / 3) * count ** (1 / 3)
    return max(1, min(math.ceil(float(best)), longest))


def _reach(correlations: Array, count: int) -> int:
    """Twice the lag after which correlations are small, several in a row."""
    run = max(5, math.ceil(math.log10(count)))
    small = np.abs(correlations[1:]) < 2 * math.sqrt(math.log10(count) / count)
    most = len(correlations) - 1
    for lag in range(most):
        if small[lag : lag + run].all():
            return min(2 * max(lag, 1), most)
    return most


def _resampled(series: Array, length: int, generator: np.random.Generator) -> Array:
    """The means of resamples, as spread as those of as many rows as there are."""
    count = len(series)
    around = np.concatenate([[0.0], np.cumsum(np.concatenate([series, series[: length - 1]]))])
    sums = around[length:] - around[:-length]
    blocks = math.ceil(count / length)
    rows = max(1, 4_000_000 // blocks)
    means = [
        sums[generator.integers(count, size=(min(rows, DRAWS - done), blocks))].sum(1) for done in range(0, DRAWS, rows)
    ]
    return np.concatenate(means) / math.sqrt(blocks * length * count)
