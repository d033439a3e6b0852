"""The L2 anchor: hold all weights alike, the baseline that an importance has to beat.

The comparison of Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017. arXiv:1612.00796
As transfer, from pretrained weights: Li et al., Explicit Inductive Bias (L2-SP), ICML 2018. arXiv:1802.01483
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from everlearn.method import Card
from everlearn.methods.anchored import Anchored
from everlearn.models.quadratic import fitted
from everlearn.models.views import bare
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class L2(Anchored):
    """L = L_new + lambda / 2 * sum_i (w_i - w_i*)^2, with w* the weights at the end of the last experience.

    Each weight that was there then has importance 1; outputs that a head has grown since are free.
    """

    card: ClassVar[Card] = Card("regularisation", "none", "2 x the weights")

    lambda_: float = 1.0

    @property
    def strength(self) -> float:
        """Lambda."""
        return self.lambda_

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Anchors the weights where they are."""
        self.hold(model)
        there = bare(model).state_dict()  # without the rows that a head has in reserve
        ones = {name: torch.ones_like(there.get(name, weight)) for name, weight in self.anchor.items()}
        self.importance = fitted(ones, self.anchor, fill=0)
