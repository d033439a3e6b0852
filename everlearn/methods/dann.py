"""DANN: features from which a discriminator cannot tell rows without labels from labelled ones.

Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 2016. arXiv:1505.07818
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side
from everlearn.models.perceptron import Perceptron
from everlearn.models.reversal import reverse
from everlearn.randomness import mix
from everlearn.schedule import ramp


@dataclass
class DANN(Aligned):
    """gap = 1/2 [mean -log D(R(f_S)) + mean -log(1 - D(R(f_T)))], where R reverses the gradient to the features.

    D descends the gap, and the features ascend it, strength times: hi (2 / (1 + exp(-gamma t)) - 1) at progress t of
    the experience. Departure: each side has half the weight, however many rows it has.
    """

    card: ClassVar[Card] = Card("adaptation", "a small net over the features", "the discriminator")

    hidden: int = 1024
    """Units of each of the two hidden layers of D."""
    hi: float = 1.0
    gamma: float = 10.0
    """How quickly the strength rises to `hi`; 0: it is there from the first step."""
    seed: int = 0

    critic: Perceptron = field(init=False)

    def __post_init__(self) -> None:
        positive(hidden=self.hidden)
        self.critic = Perceptron((self.hidden, self.hidden))

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A discriminator for features of that width."""
        self.critic.widen(width, mix(self.seed, width))
        self.critic.to(device)

    @property
    def strength(self) -> float:
        """What the reversed gradient is multiplied with, now."""
        return self.hi * ramp(self.progress, self.gamma) if self.gamma else self.hi

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How well the discriminator does."""
        return domain_loss(self.critic, source.features, target.features, self.strength)


def domain_loss(critic: nn.Module, source: Tensor, target: Tensor, strength: float) -> Tensor:
    """The cross-entropy of the discriminator, each side with half the weight, over features with reversed gradient."""
    said = critic(reverse(torch.cat([source, target]), strength)).flatten()
    mine, theirs = said[: len(source)], said[len(source) :]
    return (F.softplus(-mine).mean() + F.softplus(theirs).mean()) / 2
