"""CDAN: a discriminator that sees features along with what the model says about them.

Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018. arXiv:1705.10667
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.aligned import Side
from everlearn.methods.dann import DANN, domain_loss
from everlearn.models.perceptron import same_width
from everlearn.randomness import mix

LARGEST = 4096
"""The product of width and classes up to which the whole outer product is taken."""


@dataclass
class CDAN(DANN):
    """DANN on f x p, the outer product of the features and p = softmax(logits), which has no gradient here.

    Where f x p would have more than 4,096 entries, D sees (R_f f) * (R_p p) / sqrt(randomized) instead, with fixed
    random maps R. With `entropy` (CDAN+E) a row weighs 1 + exp(-H(p)), without gradient: rows of which the model is
    sure count for up to twice as much. Departures: those of DANN; the weights have mean 1 on each side by itself.
    """

    card: ClassVar[Card] = Card("adaptation", "a small net over the features", "the discriminator, random maps")

    entropy: bool = True
    randomized: int = 1024
    """Entries of the random product."""

    maps: list[Tensor] = field(default_factory=list, init=False)
    """R_f, (width, randomized), and R_p, (classes, randomized), whose rows stay when there are more classes; none where
    the whole product is taken."""

    def __post_init__(self) -> None:
        positive(randomized=self.randomized)
        super().__post_init__()

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A discriminator for products of that size, and maps where they are too large."""
        if width * classes <= LARGEST:
            self.maps = []
        elif [len(map_) for map_ in self.maps] != [width, classes]:
            of_classes = [self._drawn(1, mix(self.seed, width, place)) for place in range(classes)]
            self.maps = [self._drawn(width, mix(self.seed, width)).to(device), torch.cat(of_classes).to(device)]
        super().prepare(self.randomized if self.maps else width * classes, classes, device)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How badly the discriminator does."""
        sides = (source.features, source.logits), (target.features, target.logits)
        products = [self.product(features, logits.detach().softmax(1)) for features, logits in sides]
        weights = (certainty(source.logits), certainty(target.logits)) if self.entropy else None
        return domain_loss(self.critic, (products[0], products[1]), self.strength, weights)

    def _drawn(self, rows: int, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return torch.randn(rows, self.randomized, generator=random, dtype=torch.float32)

    def product(self, features: Tensor, p: Tensor) -> Tensor:
        """What the discriminator sees of rows with these features and answers."""
        if not self.maps:
            return (features.unsqueeze(2) * p.unsqueeze(1)).flatten(1)
        same_width(features, len(self.maps[0]))
        return (features @ self.maps[0]) * (p @ self.maps[1]) / sqrt(self.randomized)


def certainty(logits: Tensor) -> Tensor:
    """1 + exp(-entropy) of each row, divided by its mean; without gradient.

    >>> certainty(torch.tensor([[0.0, 0.0], [99.0, 0.0]]))
    tensor([0.8571, 1.1429])
    """
    weights: Tensor = 1 + (-torch.special.entr(logits.detach().softmax(1)).sum(1)).exp()
    return weights / weights.mean()
