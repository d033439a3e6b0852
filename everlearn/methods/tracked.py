"""Weights watched on their way: what SI and RWalk have in common."""

from dataclasses import dataclass, field

import torch
from torch import nn

from everlearn.methods.anchored import Anchored
from everlearn.models.quadratic import fitted
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class Tracked(Anchored):
    """An anchored method that notes what each weight did for the loss on its way.

    path_i = -sum over steps of g_i * (w_i after - w_i before). g is the gradient of all that is descended but this
    penalty, before clipping; the movement is the one that was really made, whatever the optimizer.
    """

    path: Weights = field(default_factory=dict, init=False)
    before: Weights = field(default_factory=dict, init=False)
    gradient: Weights = field(default_factory=dict, init=False)
    """Weights and gradients from `before_step` to `after_step`."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A new path starts."""
        super().begin(model, experience, objective)
        self.path = {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}

    def before_step(self, model: nn.Module) -> None:
        """Notes the weights, and the gradient without the penalty's share."""
        weights = trainable(model)
        self.path = fitted(self.path, weights, fill=0)
        for name, weight in weights.items():
            if weight.grad is None or name not in self.path:
                continue
            self.before[name] = weight.detach().clone()
            if name in self.importance and self.step == "gradient":
                away, held = weight.detach() - self.anchor[name], self.importance[name]
                self.gradient[name] = torch.addcmul(weight.grad, held, away, value=-self.strength)
            else:
                self.gradient[name] = weight.grad.clone()

    def after_step(self, model: nn.Module) -> None:
        """Adds the step to the path."""
        super().after_step(model)
        weights = trainable(model)
        for name, gradient in self.gradient.items():
            self.path[name].addcmul_(gradient, weights[name] - self.before[name], value=-1)
        self.before, self.gradient = {}, {}
