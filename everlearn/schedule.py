"""Schedules: what a strength or a rate is at progress t, from 0 at the first step to 1 after the last.

Never of the number of a step: the same schedule then means the same in a run of any length.
"""

from collections.abc import Callable
from math import cos, exp, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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


def warmup(t: float, share: float = 0.1, start: float = 0.1, then: str = "constant") -> float:
    """From `start` to 1 along a line in the first `share`; `then` "constant", or down to 0: "linear", "cosine".

    It does not start at 0, where the first step, which may be the only one, would teach nothing.

    >>> [round(warmup(t, share=0.5, start=0.2), 2) for t in (0, 0.25, 0.5, 1)]
    [0.2, 0.6, 1.0, 1.0]
    >>> warmup(0.75, share=0.5, then="linear")
    0.5
    """
    if then not in _AFTER:
        raise ValueError(f"then must be one of {', '.join(_AFTER)}, but is {then!r}")
    _check(share)
    if t < share:
        return start + (1 - start) * t / share
    return _AFTER[then]((t - share) / (1 - share)) if share < 1 else 1.0


_AFTER: dict[str, Callable[[float], float]] = {"constant": lambda _: 1.0, "linear": linear, "cosine": cosine}


def one_cycle(t: float, share: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Up from `start` to 1 in the first `share`, then down to `end`, both along half a cosine.

    Smith and Topin, 2019. arXiv:1708.07120; the defaults are those of torch and fastai.

    >>> [round(one_cycle(t), 3) for t in (0, 0.15, 0.3, 0.65, 1)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    _check(share)
    if t < share:
        return start + (1 - start) * (1 - cosine(t / share))
    return cosine((t - share) / (1 - share), end) if share < 1 else 1.0


def _check(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share is a part of the way, from 0 to 1, but is {share}")


def paced(schedule: Callable[..., float], **settings: float | str) -> Callable[[Optimizer, int], LambdaLR]:
    """A schedule of learning rates as `Learner(scheduler=...)` wants it: each group's own rate times the schedule.

    Progress is that of an experience, as methods see it: 0 at its first step. A checkpoint holds the steps taken, and
    the function is made anew, so a resumed learner goes on exactly.

        Learner(model, optimizer=..., scheduler=paced(inverse_decay, alpha=10, beta=0.75))
    """
    schedule(0.0, **settings)  # what is wrong with the settings is said now

    def make(optimizer: Optimizer, steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda taken: schedule(min(taken / max(1, steps), 1.0), **settings))

    return make
