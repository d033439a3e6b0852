"""BSP: no single direction of the features is allowed to outweigh all others, beside adversarial alignment.

Chen et al., Transferability vs. Discriminability: Batch Spectral Penalization, ICML 2019.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side


@dataclass
class BSP(Aligned):
    """gap = sigma_1(F_S)^2 + sigma_1(F_T)^2, the largest singular values of the features (rows x width) of each side.

    It brings nothing together by itself: it goes with a method that does, as bsp+dann or bsp+cdan, and keeps that from
    leaving only what transfers best.
    """

    card: ClassVar[Card] = Card("adaptation", "two singular value decompositions", "nothing")

    trade_off: float = field(default=2e-4, kw_only=True)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """The squares of the largest singular values."""
        return largest(source.features) + largest(target.features)


def largest(features: Tensor) -> Tensor:
    """The square of the largest singular value."""
    values: Tensor = torch.linalg.svdvals(features)
    return values[0].square()
