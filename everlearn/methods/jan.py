"""JAN: features and answers that are distributed alike, together, with and without labels.

Long et al., Deep Transfer Learning with Joint Adaptation Networks, ICML 2017. arXiv:1605.06636
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side
from everlearn.models.kernels import discrepancy, gaussian, squared_distances


@dataclass
class JAN(Aligned):
    """gap = JMMD^2: the MMD^2 of `DAN` under the kernel k(f, f') exp(-||p - p'||^2 / (2 sigma^2)), p = softmax(logits).

    k is the mean of five kernels over the features, as in `DAN`. Departures: all pairs of a batch are used, where the
    paper takes a few to be linear in rows; no adversarial maps of features and answers are learned (its JAN-A).
    """

    card: ClassVar[Card] = Card("adaptation", "two kernels between all rows of a batch", "nothing")

    sigma: float = 0.92
    """The width of the kernel over answers."""

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be above 0, but is {self.sigma!r}")

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How far the means of features and answers are apart."""
        features, logits = (torch.cat(both) for both in zip(source[:2], target[:2], strict=True))
        answers = (-squared_distances(logits.softmax(1)) / (2 * self.sigma**2)).exp()
        return discrepancy(gaussian(features) * answers, len(source.features))
