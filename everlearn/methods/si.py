"""Synaptic intelligence: weights that lowered the loss along the way are expensive to move.

Zenke et al., Continual Learning Through Synaptic Intelligence, ICML 2017. arXiv:1703.04200
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from everlearn.method import Card
from everlearn.methods.tracked import Tracked
from everlearn.models.views import trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class SI(Tracked):
    """L = L_new + c * sum_i Omega_i (w_i - w_i^prev)^2; Omega_i grows by omega_i / ((w_i - w_i^prev)^2 + xi) at the
    end of an experience, where omega_i = -sum over steps of g_i * (w_i after - w_i before).

    g is the gradient of all that is descended but this penalty, before clipping; the movement is the one that the
    optimizer really made. Departure: omega is clamped at 0, since a negative importance would push weights away
    without bound.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("regularisation", "none", "3 x the weights")

    c: float = 1.0
    xi: float = 0.1

    @property
    def strength(self) -> float:
        """Twice c: the paper has no 1/2."""
        return 2 * self.c

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A new path starts at the present weights."""
        super().begin(model, experience, objective)
        self.hold(model)
        self.importance = {name: torch.zeros_like(weight) for name, weight in self.path.items()} | self.importance

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Turns the path into importance."""
        for name, weight in trainable(model).items():
            if name in self.path and self.path[name].shape == weight.shape:
                moved = (weight.detach() - self.anchor[name]).square() + self.xi
                self.importance[name] = self.importance[name] + self.path[name].clamp(min=0) / moved
