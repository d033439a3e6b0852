"""DANN: features from which a discriminator cannot tell rows without labels from labelled ones.

Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 2016. arXiv:1505.07818
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.adversarial import Adversarial
from everlearn.methods.aligned import Side
from everlearn.models.perceptron import Perceptron
from everlearn.models.reversal import reverse
from everlearn.randomness import mix


@dataclass
class DANN(Adversarial):
    """gap = 1/2 [mean -log D(R(f_S)) + mean -log(1 - D(R(f_T)))], where R reverses the gradient to the features.

    D descends the gap, and the features ascend it, strength times: hi (2 / (1 + exp(-gamma t)) - 1) at progress t of
    the experience. Departure: each side has half the weight, however many rows it has.
    """

    card: ClassVar[Card] = Card("adaptation", "a small net over the features", "the discriminator")

    hidden: int = 1024
    """Units of each of the two hidden layers of D."""

    def __post_init__(self) -> None:
        positive(hidden=self.hidden)
        self.critic = Perceptron((self.hidden, self.hidden))

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A discriminator for features of that width."""
        self.critic.widen(width, mix(self.seed, width))
        self.critic.to(device)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How badly the discriminator does."""
        return domain_loss(self.critic, (source.features, target.features), self.strength)


def domain_loss(
    critic: Perceptron, sides: tuple[Tensor, Tensor], strength: float, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The cross-entropy of the discriminator over features with reversed gradient, each side with half the weight.

    `weights` are those of the rows of each side, with mean 1.
    """
    for side in sides:
        critic.accept(side)
    said = critic(reverse(torch.cat(sides), strength)).flatten()
    source, target = torch.split(said, [len(side) for side in sides])
    source, target = F.softplus(-source), F.softplus(target)
    if weights is not None:
        source, target = weights[0] * source, weights[1] * target
    return (source.mean() + target.mean()) / 2
