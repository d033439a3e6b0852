"""What a method adds to the gradient, measured: two runs that differ in nothing but its strength."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everlearn.conformance.check import FoundError, Trial
from everlearn.conformance.nets import PAIRS, Net, plain, stream
from everlearn.conformance.subject import NotOfferedError
from everlearn.conformance.watch import Watch
from everlearn.models.heads import drawn
from everlearn.models.views import Weights


@dataclass
class Run:
    """Two experiences, and the gradients of the first two steps of the second.

    The first of these is taken at the weights with which the first experience ended, the second at those weights
    `moved` by a known distance, wherever the optimizer would have gone, as are all that follow.
    """

    watch: Watch
    anchor: Weights
    moved: Weights
    steps: int
    """Steps of the first experience."""

    def gradient(self, place: int) -> Tensor:
        """The gradient of step `place` of the second experience, (weights,) float64."""
        found = self.watch.steps[self.steps + place].gradient
        return flat({n: torch.zeros_like(w) if (g := found[n]) is None else g for n, w in self.anchor.items()})


class Surplus(NamedTuple):
    """What the strength added to the gradients of the first and the second step, (weights,) float64."""

    first: Tensor
    second: Tensor
    run: Run
    """The run with strength."""


def surplus(trial: Trial, strength: float, **settings: Any) -> Surplus:
    """Runs the method with the strength, and with none, along one path through the weights."""
    strong, weak = (_run(trial, settings | {"strength": each}) for each in (strength, 0.0))
    if not torch.equal(flat(strong.anchor), flat(weak.anchor)):
        raise NotOfferedError("its strength changes the first experience, so that no two runs have a path in common")
    return Surplus(strong.gradient(0) - weak.gradient(0), strong.gradient(1) - weak.gradient(1), strong)


def _run(trial: Trial, settings: Mapping[str, Any]) -> Run:
    net = plain()
    subject, watch = trial.watched(net, **{"epochs": 2, **settings})
    first, second = stream(*PAIRS[:2])
    watch.learn(subject, first)
    steps = len(watch.steps)
    anchor = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    moved = {name: drawn(len(w), w[0].numel(), seed)[0] / 10 for seed, (name, w) in enumerate(anchor.items())}
    moved = {name: value.reshape(anchor[name].shape) for name, value in moved.items()}

    @torch.no_grad()
    def move(taken: int) -> None:
        if taken > steps:
            for name, weight in net.named_parameters():
                weight.copy_(anchor[name] + moved[name])

    watch.after_step = move
    watch.learn(subject, second)
    return Run(watch, anchor, moved, steps)


def at(weights: Weights) -> Net:
    """The plain net with these weights."""
    net = plain()
    net.load_state_dict(weights)
    return net


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """All weights as one vector, in double precision."""
    return torch.cat([value.detach().double().flatten() for value in weights.values()])


def alike(found: Tensor, expected: Mapping[str, Tensor], what: str, tolerance: float = 1e-3) -> str:
    """The evidence that `found` is one number times the nearest of the vectors `expected`, by name.

    Libraries put a factor of 1, 2 or 1/2 before a penalty: that is a convention, and no fault.
    """
    if not bool(found.isfinite().all()):
        raise FoundError(f"the gradient of the penalty is not finite {what}")
    if not bool(found.any()):
        raise FoundError(f"the gradient of the penalty is exactly 0 {what}")
    said = []
    for name, vector in expected.items():
        ratio = float(found @ vector / vector.square().sum())
        rest = float((found - ratio * vector).norm() / found.norm())
        if rest < tolerance and ratio > 0:
            return f"{ratio:.4g} x {name}, and nothing else (the rest is {rest:.0e} of it)"
        said.append(f"{rest:.0%} of it is not along {name} (factor {ratio:.2g})")
    raise FoundError(f"of the gradient of the penalty {what}, {', '.join(said)}")
