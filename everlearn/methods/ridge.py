"""Ridge regression on one-hot labels: a linear head that is the same however the rows were dealt out.

Zhuang et al., ACIL: Analytic Class-Incremental Learning, NeurIPS 2022. arXiv:2205.14922
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.method import Card
from everlearn.methods.frozen import Frozen
from everlearn.models.statistics import Solution, solve_definite, widened


@dataclass
class Ridge(Frozen):
    """score(x) = h W, with W = (G + lambda I)^-1 C, G = sum h^T h and C = sum h^T y over all rows; y is one-hot.

    W minimises sum |y - h W|^2 + lambda |W|^2. There is no intercept. Departures: G and C are kept, and solved by
    Cholesky when an answer is asked for, where the paper keeps (G + lambda I)^-1 and updates it by Woodbury's
    identity: that is the same W, while rounding errors do not add up. The paper's random layer is that of `RanPAC`.
    """

    card: ClassVar[Card] = Card(
        "frozen features",
        "none a step; at an end 1 forward over its rows",
        "width x (width + classes)",
        alone=True,
    )

    lambda_: float = 1.0

    G: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    """(width, width); C is the transpose of the sums of each class."""

    def absorb(self, h: Tensor, y: Tensor, new: Tensor) -> None:
        """Adds to G."""
        self.G = widened(self.G.to(h), (h.shape[1],) * 2).addmm_(h.T, h)

    def widen(self, width: int) -> None:
        """Of this statistic, too."""
        super().widen(width)
        self.G = widened(self.G, (width, width))

    def solve(self) -> Solution:
        """W, (width, classes)."""
        system = self.G.clone()
        system.diagonal().add_(self.strength)
        return (solve_definite(system, self.sums.T, f"lambda must be larger than {self.strength}"),)

    @property
    def strength(self) -> float:
        """The lambda that is solved with."""
        return self.lambda_

    def scores(self, h: Tensor, *solution: Tensor) -> Tensor:
        """A linear classifier without biases."""
        return h @ solution[0]
