"""Deep CORAL: features whose covariance is the same with and without labels.

Sun and Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, 2016. arXiv:1607.01719
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side


@dataclass
class CORAL(Aligned):
    """gap = ||C_S - C_T||_F^2 / (4 d^2), with C the covariance of the features, d x d, of a side of the batch.

    The gap of nets is small: the trade-off is of the order of 100 to 1,000, or such that both parts of the loss end at
    about the same size, as the paper says. `mean` adds the squared distance of the means, per feature: a departure.
    """

    card: ClassVar[Card] = Card("adaptation", "two covariances", "nothing")

    mean: bool = False

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """The distance of the covariances."""
        width = source.features.shape[1]
        apart = (_covariance(source.features) - _covariance(target.features)).square().sum() / (4 * width**2)
        if not self.mean:
            return apart
        return apart + (source.features.mean(0) - target.features.mean(0)).square().mean()


def _covariance(features: Tensor) -> Tensor:
    """That of a sample; of one row it is 0."""
    centred = features - features.mean(0)
    return centred.T @ centred / max(len(features) - 1, 1)
