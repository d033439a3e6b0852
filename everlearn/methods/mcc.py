"""MCC: answers about rows without labels that confuse no class with another.

Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, ECCV 2020. arXiv:1912.03699
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side


@dataclass
class MCC(Aligned):
    """gap = 1/C sum_{c != d} M_cd / sum_e M_ce, with M_cd = sum_i w_i p_ic p_id, the confusion of the classes c and d.

    p = softmax(logits / temperature) of the rows without labels, and w_i = 1 + exp(-H(p_i)), scaled to mean 1, a
    constant to the gradient: sure answers count more. Features and labelled rows are not looked at.
    """

    card: ClassVar[Card] = Card("adaptation", "a confusion of classes", "nothing")

    temperature: float = 2.5

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, but is {self.temperature!r}")

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """The mean confusion of a class with all others, in [0, 1)."""
        return confusion(target.logits, self.temperature)


def confusion(logits: Tensor, temperature: float) -> Tensor:
    """The mean share of what is said of a class that is said of others along with it."""
    p = (logits / temperature).softmax(1)
    sure: Tensor = 1 + (-torch.special.entr(p.detach()).sum(1)).exp()
    together = p.T @ (p * (sure / sure.mean())[:, None])
    shares: Tensor = together / together.sum(1, keepdim=True).clamp(min=1e-30)  # a class may be out of the question
    return (shares.sum() - shares.trace()) / len(shares)
