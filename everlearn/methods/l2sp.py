"""L2-SP: fine-tuning starts at the pretrained weights, and is held to them rather than to zero.

Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML 2018.
arXiv:1802.01483
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.anchored import Anchored
from everlearn.models.heads import head_weights
from everlearn.models.lowrank import answering
from everlearn.models.nets import head_for
from everlearn.models.views import bare, trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class L2SP(Anchored):
    """L = L_new + alpha / 2 * |w - w_0|^2 + beta / 2 * |w_head|^2, with w_0 the body when the first experience began.

    So w_0 are the pretrained weights, in all experiences that follow; scales and shifts of normalisations are among
    them, running statistics are not. A layer that is thawed later is held to what it was while it was frozen. In a
    `MultiHead` the head of the present task is held to zero, and those of others are free. Set the weight decay of the
    optimizer to 0: it pulls to zero what this pulls to w_0.
    """

    card: ClassVar[Card] = Card("tuning", "none", "2 x the weights")

    alpha: float = 0.01
    beta: float = 0.01
    head: str | None = None
    """The linear layer that answers; None for the last one."""

    @property
    def strength(self) -> float:
        """1: alpha and beta are the importances."""
        return float(self.alpha != 0 or self.beta != 0)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Anchors what is not anchored yet, and the head at zero, as large as it is now."""
        weights = trainable(model)
        body = {name: weight for name, weight in weights.items() if name not in answering(model, self.head)}
        mine = head_weights(bare(model), head_for(model, experience.task, self.head))
        head = {name: weight for name, weight in mine.items() if name in weights}
        new = {name: weight.detach().clone() for name, weight in body.items() if name not in self.anchor}
        self.anchor = self.anchor | new | {name: torch.zeros_like(weight) for name, weight in head.items()}
        held = [(body, self.alpha), (head, self.beta)]
        self.importance = {n: _all(w, by) for part, by in held for n, w in part.items() if by}
        super().begin(model, experience, objective)


def _all(weight: Tensor, value: float) -> Tensor:
    """`value` for each number of a weight, in float32 at least."""
    return torch.full_like(weight.detach(), value, dtype=torch.promote_types(weight.dtype, torch.float32))
