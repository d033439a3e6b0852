"""The learning rate range test: one short sweep from small rates to large ones, and the rate that it suggests.

Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017. arXiv:1506.01186
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from everlearn.border import NonFiniteError, positive
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.metrics.colours import variables
from everlearn.randomness import mix, seed_globals, unmoved
from everlearn.streams.experience import Experience


@dataclass(frozen=True)
class RangeTest:
    """What a sweep found: the loss of each step, at the rate it was taken with."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    """A mean of the losses on both sides, with weights that fall exponentially: it does not lag behind."""
    suggestion: float | None
    """Where the smoothed loss falls most steeply over the logarithm of the rate; None where it never falls."""
    lowest: float
    """Where the smoothed loss is lowest: from about there on, rates are too large."""
    diverged: bool
    """Whether the sweep ended early, with a loss that was several times the lowest or not finite."""

    def __str__(self) -> str:
        if self.suggestion is None:
            return f"no rate from {self.rates[0]:.1e} to {self.rates[-1]:.1e} made the loss fall"
        return f"lr={self.suggestion:.1e}: the loss falls most steeply there, and is lowest at {self.lowest:.1e}"

    def svg(self) -> str:
        """A picture that stands alone: the losses as dots, smoothed as a line, over the rate on a logarithmic axis."""
        return _drawn(self)


def range_test(
    learner: Learner,
    experience: Experience,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    smoothing: float = 0.8,
    method: Method | None = None,
) -> RangeTest:
    """Takes `steps` steps with rates that grow geometrically from `low` to `high`, on a copy of the model.

    Nothing of `learner` changes, nor the generators of random numbers. The copy learns with the optimizer, objective,
    view, batches and precision of `learner`; groups with rates of their own keep their factors, and the rates named
    are those of factor 1. It learns plainly, unless a `method` is given (one that has not learned yet; it is copied).
    `smoothing` is what the next step counts in the mean, beside one. The sweep ends early once the mean of the steps so
    far, smoothed so, is more than four times its lowest value.
    """
    positive(steps=steps)
    if not 0 < low < high < math.inf:
        raise ValueError(f"the rates must go up from low to high, both above 0, but they are {low} and {high}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is what the next step counts beside one, from 0 up to 1, but is {smoothing}")
    if steps < 4:
        raise ValueError(f"a slope needs at least 4 steps, but steps is {steps}")
    if learner.begun:
        raise ValueError(f"the learner is in the middle of experience {learner.experience}; finish it first")
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    copy = _copied(learner, experience, rates, method)
    losses: list[float] = []
    mean, least, diverged = 0.0, math.inf, False
    with unmoved(learner.device):
        seed_globals(mix(learner.seed))
        try:
            for step in copy.steps(experience):
                if step.loss is None:
                    raise ValueError("there is nothing to descend in these rows, so no rate is better than another")
                losses.append(float(step.loss))
                mean = smoothing * mean + (1 - smoothing) * losses[-1]
                so_far = mean / (1 - smoothing ** len(losses))
                least = min(least, so_far)
                diverged = so_far > 4 * least
                if diverged or len(losses) == steps:
                    break
        except NonFiniteError:
            diverged = True
    if len(losses) < 4:
        raise ValueError(
            f"the loss was not finite after {len(losses)} steps, with rates from low={low:g}; begin with a lower one"
        )
    taken, smoothed = tuple(rates[: len(losses)]), _smoothed(losses, smoothing)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    return RangeTest(taken, tuple(losses), tuple(smoothed), _steepest(taken, smoothed, lowest), taken[lowest], diverged)


def _copied(learner: Learner, experience: Experience, rates: Sequence[float], method: Method | None) -> Learner:
    """A learner of a copy of the model, whose schedule is the sweep."""
    model: nn.Module
    # In one go: a factory that knows the model (`grouped`) must then know the copy.
    model, make = deepcopy((learner.model, learner.make_optimizer))

    def sweep(optimizer: Optimizer, _: int) -> LambdaLR:
        base = float(optimizer.defaults["lr"])
        if not base:
            raise ValueError("the optimizer has lr=0, of which no other rate is a multiple; make it with one above 0")
        return LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)] / base)

    settings: dict[str, Any] = {
        name: vars(learner)[name]
        for name in ("batch_size", "seed", "view", "precision", "accumulate", "clip", "workers", "reference_size")
    }
    copy = Learner(
        model, deepcopy(method), learner.objective, optimizer=make, scheduler=sweep, drop_last=True, **settings
    )
    if len(experience.train) < learner.batch_size:
        copy.drop_last = False
    copy.epochs = math.ceil(len(rates) / copy._batches_in(experience))  # noqa: SLF001
    return copy


def _smoothed(losses: list[float], smoothing: float) -> list[float]:
    """The mean around each loss, in which one that is k steps away counts smoothing^k.

    What is above all losses up to the lowest counts as the highest of these: else the last steps would hide the others.
    """
    found, most = [], max(losses[: losses.index(min(losses)) + 1])
    for place in range(len(losses)):
        weights = [smoothing ** abs(place - other) for other in range(len(losses))]
        found.append(sum(w * min(loss, most) for w, loss in zip(weights, losses, strict=True)) / sum(weights))
    return found


def _steepest(rates: Sequence[float], smoothed: Sequence[float], lowest: int) -> float | None:
    """The rate before the lowest loss at which the loss falls most per factor of the rate, over three points."""
    slopes = {
        place: (smoothed[place + 1] - smoothed[place - 1]) / math.log(rates[place + 1] / rates[place - 1])
        for place in range(1, min(lowest + 1, len(rates) - 1))
    }
    best = min(slopes, key=slopes.__getitem__, default=None)
    return None if best is None or slopes[best] >= 0 else rates[best]


_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BELOW = 56, 20, 44, 48
_RULES = (
    'text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}'
    ".heading{font-size:14px;font-weight:600;fill:var(--ink)}"
    ".paper{fill:var(--paper)}.grid{stroke:var(--line);stroke-width:1}"
    ".line{fill:none;stroke:var(--m0);stroke-width:2;stroke-linejoin:round}.dots{fill:var(--m0);opacity:.3}"
    ".mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:4 3}.name{fill:var(--ink)}"
    ".end{fill:var(--m0);stroke:var(--paper);stroke-width:1.5}"
)


def _drawn(found: RangeTest) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BELOW
    first, last = math.log10(found.rates[0]), math.log10(found.rates[-1])
    low = min(0.0, *found.smoothed)
    top = 1.15 * max(found.smoothed[0], *found.smoothed[: 1 + found.rates.index(found.lowest)])
    top = top if top > low else low + 1  # a loss of zero all the way
    ticks = _ticks(low, top)

    def x(rate: float) -> float:
        return _LEFT + (right - _LEFT) * (math.log10(rate) - first) / (last - first)

    def y(loss: float) -> float:
        return bottom - (bottom - _TOP) * (loss - low) / (top - low)

    parts = [f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{right}"/>' for tick in ticks]
    parts += [f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>' for tick in ticks]
    for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1):
        parts.append(f'<path class="grid" d="M{x(10.0**power):.1f} {bottom}v5"/>')
        parts.append(f'<text x="{x(10.0**power):.1f}" y="{bottom + 20}" text-anchor="middle">1e{power}</text>')
    inside = [(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True) if loss <= top]
    parts += [f'<circle class="dots" cx="{x(rate):.1f}" cy="{y(loss):.1f}" r="2"/>' for rate, loss in inside]
    course = "L".join(f"{x(r):.1f} {y(s):.1f}" for r, s in zip(found.rates, found.smoothed, strict=True))
    parts.append(f'<path class="line" clip-path="url(#inside)" d="M{course}"/>')
    if found.suggestion is not None:
        place, height = x(found.suggestion), y(found.smoothed[found.rates.index(found.suggestion)])
        side, anchor = (8, "start") if place < (_LEFT + right) / 2 else (-8, "end")
        parts.append(f'<path class="mark" d="M{place:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<circle class="end" cx="{place:.1f}" cy="{height:.1f}" r="5"/>')
        parts.append(
            f'<text class="name" x="{place + side:.1f}" y="{_TOP + 12}" text-anchor="{anchor}">'
            f"steepest: {found.suggestion:.1e}</text>"
        )
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">learning rate</text>')
    title = "Loss over the learning rate" + (", until it diverged" if found.diverged else "")
    parts.append(f'<text class="heading" x="{_LEFT}" y="22">{title}</text>')
    style = (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}{_RULES}"
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} '
        f'{_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f"<desc>{escape(str(found))}</desc><style>{style}</style>"
        f'<clipPath id="inside"><path d="M{_LEFT} {_TOP}H{right}V{bottom}H{_LEFT}Z"/></clipPath>'
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>{"".join(parts)}</svg>\n'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (unit * factor) <= 7)
    return [round(step * place, 12) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
