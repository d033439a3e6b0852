"""AFN: features that grow longer step by step, with and without labels: what is short transfers badly.

Xu et al., Larger Norm More Transferable: An Adaptive Feature Norm Approach, ICCV 2019. arXiv:1811.07456
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side


@dataclass
class AFN(Aligned):
    """gap = mean_S (||f|| - ||f||_0 - delta)^2 + mean_T (||f|| - ||f||_0 - delta)^2: the stepwise norm, SAFN.

    ||f||_0 is the norm as it is, a constant to the gradient, so the gap is always 2 delta^2, and its gradient makes
    each norm longer by the same. Departure: dropout is the model's affair, and keeps the mean of features rather than
    their norm.
    """

    card: ClassVar[Card] = Card("adaptation", "the norms of the features", "nothing")

    trade_off: float = field(default=0.05, kw_only=True)
    delta: float = 1.0

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How much shorter the features are than they are to be."""
        return self._short(source.features) + self._short(target.features)

    def _short(self, features: Tensor) -> Tensor:
        norm: Tensor = features.norm(dim=1)
        return (norm - norm.detach() - self.delta).square().mean()
