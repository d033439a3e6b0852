"""MCD: two heads that differ on the target as far as they can, and features on which they cannot.

Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation, CVPR 2018. arXiv:1712.02560
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.method import Card
from everlearn.methods.adversarial import Adversarial
from everlearn.methods.aligned import Side
from everlearn.models.heads import head_of
from everlearn.models.perceptron import Perceptron
from everlearn.models.reversal import reverse
from everlearn.models.views import bare
from everlearn.randomness import mix


@dataclass
class MCD(Adversarial):
    """gap = CE(p2(f_S), y) - d(p1(R(f_T)), p2(R(f_T))), d = mean |p1 - p2|, with p1 of the model's head.

    Both heads ascend d, and the features, whose gradient R reverses, descend it, strength times. Departures: the three
    phases of the paper (A: all learn the source; B: the heads ascend d; C: the features descend d, k times) are one
    step, in which k steps of the features are, to first order, one with `hi` = k times the gradient; the strength rises
    from 0, because the second head is new when the target comes; the model's head alone answers.
    """

    card: ClassVar[Card] = Card("adaptation", "a second head", "the second head")

    hi: float = field(default=4.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.tap is not None:
            raise ValueError(f"MCD compares two heads over what the model's head reads, so tap={self.tap!r} cannot be")
        self.critic = Perceptron(())

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A second head, as wide as the model's."""
        self.critic.widen(width, mix(self.seed, width, classes), classes)
        self.critic.to(device)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How badly the second head does on the source, less the difference of both on the target."""
        reached = reverse(target.features, self.strength)
        head = head_of(bare(model))[1]
        first = head(reached.to(head.weight.dtype)).to(reached.dtype).softmax(1)
        second = self.critic(torch.cat([source.features, reached]))
        known, unknown = second[: len(source.y)], second[len(source.y) :].softmax(1)
        apart: Tensor = (first - unknown).abs().mean()
        return F.cross_entropy(known, source.y) - apart
