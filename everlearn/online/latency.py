"""How long answers take: quantiles of any number of times, in a histogram of fixed size."""

import math

_LOWEST, _STEPS = 1e-6, 20
"""A bound of one microsecond, and bounds in each power of ten above it: neighbours differ by 12 %."""


class Latency:
    """Counts of times between 1 microsecond and 1,000 seconds. A quantile is at most 12 % above the true one.

    >>> latency = Latency()
    >>> for milliseconds in range(1, 101):
    ...     latency.add(milliseconds / 1000)
    >>> 0.050 <= latency.quantile(0.5) <= 0.056
    True
    """

    def __init__(self) -> None:
        self.counts = [0] * (9 * _STEPS + 1)

    def add(self, seconds: float, rows: int = 1) -> None:
        """So many answers took so long."""
        place = math.ceil(_STEPS * math.log10(max(seconds, _LOWEST) / _LOWEST))
        self.counts[min(place, len(self.counts) - 1)] += rows

    def quantile(self, share: float) -> float:
        """The time that this share of answers did not exceed, in seconds; 0 where there is none."""
        total = sum(self.counts)
        rank, below = share * total, 0
        for place, count in enumerate(self.counts):
            below += count
            if count and below >= rank:
                return _LOWEST * math.pow(10, place / _STEPS)
        return 0.0
