"""DAN: features whose means agree with and without labels, under kernels of several widths.

Long et al., Learning Transferable Features with Deep Adaptation Networks, ICML 2015. arXiv:1502.02791
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side
from everlearn.models.kernels import discrepancy, gaussian


@dataclass
class DAN(Aligned):
    """gap = MMD^2 = E k(f_S, f_S') + E k(f_T, f_T') - 2 E k(f_S, f_T).

    k is the mean of five Gaussian kernels with the variances 2^k sigma^2, k = -3 ... 1, where sigma^2 is the mean
    squared distance of the features of the batch, a constant to the gradient. Departures: all pairs of a batch are
    used, where the paper takes a few to be linear in rows; the weights of the kernels are equal and not learned; one
    layer is aligned, the last before the head.
    """

    card: ClassVar[Card] = Card("adaptation", "a kernel between all rows of a batch", "nothing")

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How far the means are apart."""
        return discrepancy(gaussian(torch.cat([source.features, target.features])), len(source.features))
