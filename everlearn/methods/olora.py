"""O-LoRA: the adapter of each experience reads directions that those of earlier experiences do not read.

Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, EMNLP Findings 2023. arXiv:2310.14152
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch
from everlearn.method import Card
from everlearn.methods.lora import LoRA
from everlearn.models.views import Weights
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class OLoRA(LoRA):
    """L = L_new + lambda_1 * sum over adapted weights and i < t of ||A_i A_t^T||_F^2, where W = W_0 + alpha / r * B A.

    The sum of the B_i A_i before is part of W_0, which is what the paper computes; of each, A_i is kept, and never
    moves. Departure: the paper's code has the sum of absolute values, and this is the paper's equation.
    """

    card: ClassVar[Card] = Card("architecture", "none", "A of each experience; while it learns, the adapted weights")

    lambda_1: float = 0.5

    past: Weights = field(default_factory=dict, init=False)
    """All earlier A of a weight, (experiences * r, inputs)."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds what A shares with those before it."""
        output = super().loss(model, batch, objective, rest)
        shared = [self.past[name] @ self.adapters.pair(name)[0].T for name in self.base if name in self.past]
        if output.loss is None or not shared or not self.lambda_1:
            return output
        penalty = torch.stack([each.square().sum() for each in shared]).sum()
        return Output(output.loss + self.lambda_1 * penalty, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Keeps A."""
        for name in self.base:
            a = self.adapters.pair(name)[0].detach()
            self.past = self.past | {name: torch.cat([self.past.get(name, a[:0]), a])}
        super().end(model, experience, objective)
