"""Gradient projection memory: no layer changes what it makes of old inputs.

Saha et al., Gradient Projection Memory for Continual Learning, ICLR 2021. arXiv:2103.09762
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.data.order import batches, epoch_order
from everlearn.method import Card, Method
from everlearn.models.inputs import second_moments, used_weights
from everlearn.models.spans import missing, noticed, unnoticed
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class GPM(Method):
    """W <- W + D - D M M^T, with D the optimizer's step of a linear or convolution layer, and M an orthonormal basis
    of its old inputs: of each experience, the fewest directions that hold `threshold` of the sum of their squares.

    With all of it, no linear layer changes what it makes of those rows, and so the model does not either. Departures:
    the bias is a weight of an input of 1, where the paper has none. What is no such layer, normalisation say, moves in
    the first experience that needs it only, as the paper's batch normalisation. The head is projected as any layer,
    unless each task has its own. What is projected is the step: with plain SGD that is the paper's projected gradient,
    and with momentum or Adam old outputs are held just as well. A bias that the optimizer does not move stays where it
    is, and the weights of its layer make up for it: the projection is that within what moved.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "gradient", "none a step; at an end 1 forward over `rows` rows", "up to inputs x inputs a layer", measures=True
    )

    threshold: float = 0.97
    """The share of old inputs that is held, as squares; the paper's eps_th."""
    rows: int = 300
    """Rows of each experience that the inputs are taken of."""

    basis: Weights = field(default_factory=dict, init=False)
    """M, (inputs + 1, directions), by the name of the weight."""
    free: Weights = field(default_factory=dict, init=False)
    """What `unnoticed` makes of M, (inputs + 1,): along it a bias that stood still is put back."""
    fixed: list[str] = field(default_factory=list, init=False)
    """Weights that the model uses, and that are no part of such a layer."""
    before: Weights = field(default_factory=dict, init=False)
    """The weights, from `before_step` to `after_step`."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a share of old inputs, from 0 to 1, but is {self.threshold}")

    def before_step(self, model: nn.Module) -> None:
        """Notes the weights."""
        held = {*self.fixed, *self.basis, *map(_bias, self.basis)}
        self.before = {name: weight.detach().clone() for name, weight in trainable(model).items() if name in held}

    def after_step(self, model: nn.Module) -> None:
        """Takes out of the step what old inputs would notice."""
        moved = {name: weight for name, weight in trainable(model).items() if name in self.before}
        for name in self.fixed:
            if name in moved:
                moved[name].copy_(self.before[name])
        for name, basis in self.basis.items():
            pair = {name: slice(-1), _bias(name): slice(-1, None)}  # the columns of each
            if pair := {each: part for each, part in pair.items() if each in moved}:
                step = basis.new_zeros(len(moved[next(iter(pair))]), len(basis))
                for each, part in pair.items():
                    step[:, part] = (moved[each] - self.before[each]).reshape(len(step), -1)
                step -= noticed(step, basis, self.free[name])
                for each, part in pair.items():
                    moved[each].copy_(self.before[each] + step[:, part].reshape(moved[each].shape))
        self.before = {}

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Adds the inputs of this experience to the old ones."""
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        if not len(order) or self.threshold == 0:
            return
        moments = second_moments(model, batches(experience.train, order, 128), objective)
        for name, moment in moments.items():
            old = self.basis.get(name, moment.new_zeros(len(moment), 0)).to(moment)
            new = torch.cat([old, missing(old, moment, self.threshold)], 1)
            self.basis[name] = new.to(torch.promote_types(trainable(model)[name].dtype, torch.float32))
            self.free[name] = unnoticed(self.basis[name])
        used = used_weights(model, next(batches(experience.train, order[:2], 2)), objective)
        self.fixed = sorted({*self.fixed, *used} - {*self.basis, *map(_bias, self.basis)})


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias"
