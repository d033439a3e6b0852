"""Schedules: what a strength or a rate is at progress t, from 0 at the first step to 1 after the last.

Never of the number of a step: the same schedule then means the same in a run of any length.
"""

from collections.abc import Callable
from math import cos, exp, pi
from typing import Any

from torch import nn
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


def paced(
    schedule: Callable[..., float], *, floor: float = 0.0, **settings: float | str
) -> Callable[[Optimizer, int], LambdaLR]:
    """A schedule of learning rates as `Learner(scheduler=...)` wants it: each group's own rate times the schedule.

    Times `floor` at least: a model that is to learn on must not end with a rate of 0.

    Progress is that of an experience, as methods see it: 0 at its first step. A checkpoint holds the steps taken, and
    the function is made anew, so a resumed learner goes on exactly.

        Learner(model, optimizer=..., scheduler=paced(inverse_decay, alpha=10, beta=0.75))
    """
    factor = _floored(schedule, floor, settings)

    def make(optimizer: Optimizer, steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda taken: factor(taken / max(1, steps)))

    return make


def unending(
    make: Callable[[list[nn.Parameter]], Optimizer],
    schedule: Callable[..., float],
    over: int,
    *,
    floor: float = 0.0,
    **settings: float | str,
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """`make`, whose optimizers go through a schedule in their first `over` steps, and stay where it ends.

    For streams, of which nobody knows how long they are: `Learner.observe` has no planned steps, so progress is told
    here. Each step is taken at the group's own rate times the schedule, times `floor` at least; between steps the rate
    is as it was set, so who changes it (a reaction to drift, a `scheduler`) changes it by the same factor. The steps
    are counted in the groups, so a checkpoint has them; weights that come later in a group of their own begin anew.

        Learner(model, optimizer=unending(partial(SGD, lr=0.01), warmup, over=500, share=1))  # and then constant
        Learner(model, optimizer=unending(partial(SGD, lr=0.1), inverse_decay, over=10_000, floor=0.2))
    """
    if over < 1:
        raise ValueError(f"over must be at least 1 step, but is {over}")
    factor = _floored(schedule, floor, settings)

    def made(weights: list[nn.Parameter]) -> Optimizer:
        optimizer = make(weights)
        for group in (optimizer.defaults, *optimizer.param_groups):  # new groups begin with the defaults
            group["taken"] = 0
        own: list[Any] = []

        def before(*_: Any) -> None:
            own[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor(group["taken"] / over)

        def after(*_: Any) -> None:
            for group, rate in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = rate
                group["taken"] += 1

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        return optimizer

    return made


def _floored(
    schedule: Callable[..., float], floor: float, settings: dict[str, float | str]
) -> Callable[[float], float]:
    """The schedule up to 1 and as it is there, never below the floor; what is wrong with the settings is said now."""
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is a share of the rate, from 0 to 1, but is {floor}")
    schedule(0.0, **settings)
    return lambda t: max(floor, schedule(min(t, 1.0), **settings))
