"""Orthogonal gradient descent: step only where old answers do not change.

Farajtabar et al., Orthogonal Gradient Descent for Continual Learning, AISTATS 2020. arXiv:1910.07104
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from everlearn.border import one_of
from everlearn.data.order import batches, epoch_order
from everlearn.method import Card, Method
from everlearn.models.gradients import flat, logit_gradients, strongest, within
from everlearn.models.quadratic import fitted
from everlearn.models.views import Weights, average, trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class OGD(Method):
    """w <- w + d - m V^T (V m V^T)^-1 V d, with d the optimizer's step, m 1 for the weights that it moved, else 0, and
    V an orthonormal basis of the gradients of old logits.

    To first order no step changes those logits. Departures: V is made by a singular value decomposition in place of
    Gram-Schmidt: it spans the same, and of more gradients than `directions` it keeps the strongest of all experiences,
    where the paper stores ever more. What is projected is the step: with plain SGD that is the paper's projected
    gradient, and with momentum, weight decay or Adam the logits are held just as well. What the optimizer does not
    move, unused heads say, stays where it is, and the inverse makes up for it; where all moves, it is the identity.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "gradient",
        "none a step; at an end 1 forward, 1 backward for each of `rows` rows",
        "`directions` x the weights",
        measures=True,
    )

    directions: int = 200
    """Directions held, at most."""
    rows: int = 100
    """Rows of each experience whose logits are held."""
    variant: Literal["gtl", "all", "ave"] = "gtl"
    """Held of each row: the logit of its class, each logit, or their mean."""

    basis: Weights = field(default_factory=dict, init=False)
    """V, (directions, *weight) for each weight."""
    strength: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    """The singular values, (directions,), falling."""
    grams: Weights = field(default_factory=dict, init=False)
    """V V^T of each weight alone, (directions, directions): they add up to the identity."""
    before: Weights = field(default_factory=dict, init=False)
    """The weights, from `before_step` to `after_step`."""

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("gtl", "all", "ave"))

    def before_step(self, model: nn.Module) -> None:
        """Notes the weights."""
        self._fit(model)
        self.before = {name: weight.detach().clone() for name, weight in trainable(model).items() if name in self.basis}

    def after_step(self, model: nn.Module) -> None:
        """Takes out of the step what would change old logits."""
        weights = {name: weight for name, weight in trainable(model).items() if name in self.before}
        steps = [flat([weight - self.before[name]]) for name, weight in weights.items()]
        away = within([self.basis[name].flatten(1) for name in weights], [self.grams[name] for name in weights], steps)
        for weight, part in zip(weights.values(), away, strict=True):
            weight.sub_(part.reshape(weight.shape))
        self.before = {}

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Adds the gradients of logits of this experience."""
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        rows = batches(experience.train, order, 1)
        gradients = [g for row in rows for g in logit_gradients(model, row, objective, self.variant)]
        if gradients and self.directions:
            average(gradients)
            self._hold(model, gradients)

    def _fit(self, model: nn.Module) -> None:
        """Directions in the shapes of the weights: they are zero where a head has grown."""
        shapes = {name: weight.expand(len(self.strength), *weight.shape) for name, weight in trainable(model).items()}
        self.basis = fitted(self.basis, shapes, fill=0)

    def _hold(self, model: nn.Module, more: list[Tensor]) -> None:
        """Makes the strongest directions of those held and of `more` gradients those that are held."""
        self._fit(model)
        weights, count = trainable(model), len(self.strength)
        held = [self.basis.get(name, weight.new_zeros(count, *weight.shape)) for name, weight in weights.items()]
        scaled = torch.cat([v.flatten(1) for v in held], 1) * self.strength.to(held[0])[:, None]
        basis, self.strength = strongest(torch.cat([scaled, *(g[None] for g in more)]), self.directions)
        pieces = dict(zip(weights, basis.split_with_sizes([w.numel() for w in weights.values()], 1), strict=True))
        self.basis = {name: piece.reshape(-1, *weights[name].shape) for name, piece in pieces.items()}
        self.grams = {name: (wide := piece.double()) @ wide.T for name, piece in pieces.items()}
