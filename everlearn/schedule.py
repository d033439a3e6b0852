"""Schedules: what a strength or a rate is at progress t, from 0 at the first step to 1 after the last.

Never of the number of a step: the same schedule then means the same in a run of any length.
"""

from math import cos, exp, pi


def ramp(t: float, gamma: float = 10.0) -> float:
    """2 / (1 + exp(-gamma t)) - 1: from 0 to nearly 1 (Ganin et al., 2016. arXiv:1505.07818).

    >>> [round(ramp(t), 2) for t in (0, 0.1, 0.2, 0.5, 1)]
    [0.0, 0.46, 0.76, 0.99, 1.0]
    """
    return 2 / (1 + exp(-gamma * t)) - 1


def inverse_decay(t: float, alpha: float = 10.0, beta: float = 0.75) -> float:
    """(1 + alpha t)^-beta: the learning rate of Ganin et al., 2016, as a share of the first.

    >>> round(inverse_decay(1), 3)
    0.166
    """
    return float((1 + alpha * t) ** -beta)


def cosine(t: float, end: float = 0.0) -> float:
    """From 1 to `end` along half a cosine.

    >>> round(cosine(0.5, end=0.1), 2)
    0.55
    """
    return end + (1 - end) * (1 + cos(pi * t)) / 2


def linear(t: float, end: float = 0.0) -> float:
    """From 1 to `end` along a line.

    >>> linear(0.25)
    0.75
    """
    return 1 + (end - 1) * t
