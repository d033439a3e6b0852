"""Synaptic intelligence: weights that lowered the loss along the way are expensive to move.

Zenke et al., Continual Learning Through Synaptic Intelligence, ICML 2017. arXiv:1703.04200
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch
from everlearn.method import Card, Method
from everlearn.models.quadratic import fitted, pull
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class SI(Method):
    """L = L_new + c * sum_i Omega_i (w_i - w_i^prev)^2; Omega_i grows by omega_i / ((w_i - w_i^prev)^2 + xi) at the
    end of an experience, where omega_i = -sum over steps of g_i * (w_i after - w_i before).

    g is the gradient of all that is descended but this penalty, before clipping; the movement is the one that the
    optimizer really made. Departure: omega is clamped at 0, since a negative importance would push weights away
    without bound.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("regularisation", "none", "3 x the weights")

    c: float = 1.0
    xi: float = 0.1

    anchor: Weights = field(default_factory=dict, init=False)
    importance: Weights = field(default_factory=dict, init=False)
    path: Weights = field(default_factory=dict, init=False)
    """omega, so far in this experience."""
    before: Weights = field(default_factory=dict, init=False)
    gradient: Weights = field(default_factory=dict, init=False)
    """Weights and gradients from `before_step` to `after_step`."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A new path starts at the present weights."""
        self.anchor = {name: weight.detach().clone() for name, weight in trainable(model).items()}
        self.path = {name: torch.zeros_like(weight) for name, weight in self.anchor.items()}
        self.importance = {name: torch.zeros_like(weight) for name, weight in self.path.items()} | self.importance

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the penalty."""
        output = rest(model, batch)
        if output.loss is None or not self.anchor:
            return output
        weights = trainable(model)
        self.anchor = fitted(self.anchor, weights)
        self.path, self.importance = (fitted(each, weights, fill=0) for each in (self.path, self.importance))
        if self.c == 0:
            return output
        return Output(output.loss + pull(weights, self.anchor, self.importance, 2 * self.c), output.logits)

    def before_step(self, model: nn.Module) -> None:
        """Notes the weights, and the gradient without the penalty's share."""
        moving = {n: w for n, w in trainable(model).items() if w.grad is not None and n in self.path}
        self.before = {name: weight.detach().clone() for name, weight in moving.items()}
        self.gradient = {
            name: torch.addcmul(weight.grad, self.importance[name], weight - self.anchor[name], value=-2 * self.c)
            for name, weight in moving.items()
            if weight.grad is not None
        }
        self.gradient = {name: value.detach() for name, value in self.gradient.items()}

    def after_step(self, model: nn.Module) -> None:
        """Adds the step to the path."""
        weights = trainable(model)
        for name, gradient in self.gradient.items():
            self.path[name].addcmul_(gradient, weights[name] - self.before[name], value=-1)
        self.before, self.gradient = {}, {}

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Turns the path into importance."""
        for name, weight in trainable(model).items():
            if name in self.path and self.path[name].shape == weight.shape:
                moved = (weight.detach() - self.anchor[name]).square() + self.xi
                self.importance[name] = self.importance[name] + self.path[name].clamp(min=0) / moved
