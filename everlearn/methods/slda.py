"""Streaming linear discriminant analysis: one mean for each class, one covariance for all, updated row by row.

Hayes and Kanan, Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis, 2020. arXiv:1909.01520
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.method import Card
from everlearn.methods.frozen import Frozen
from everlearn.models.statistics import Solution, centred, deviations, solve_definite, widened


@dataclass
class SLDA(Frozen):
    """score_k(x) = w_k h - w_k mu_k / 2, with w_k = [(1 - eps) Sigma + eps I]^-1 mu_k.

    Sigma is the covariance of the features about the means of their classes. Row by row, d being a row's difference
    from the mean of the c rows of its class before it (at first 0), n Sigma grows by w d d^T. With `exact`, w is
    c / (c + 1): Sigma is then that of all rows at once, whatever their order. The paper has n / (n + 1), n being the
    number of rows of all classes before it (`exact=False`). Departures: `exact` by default; the batch is computed at
    once, with the result of row by row; the first covariance is not estimated apart from those of later rows.
    """

    card: ClassVar[Card] = Card(
        "frozen features",
        "none a step; at an end 1 forward over its rows",
        "a mean for each class, a covariance",
        alone=True,
    )

    eps: float = 1e-4
    exact: bool = True

    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    """n Sigma, (width, width)."""

    def absorb(self, h: Tensor, y: Tensor, new: Tensor) -> None:
        """Adds each row's difference from the mean before it, or all of them at once."""
        if self.exact:
            away = weighed = centred(h, y, new, self.counts, self.sums)
        else:
            away, _, places = deviations(h, y, self.counts, self.sums)
            n = (self.counts.sum() + places).to(h)
            weighed = away * (n / (n + 1)).unsqueeze(1)
        self.scatter = widened(self.scatter.to(h), (h.shape[1],) * 2).addmm_(weighed.T, away)

    def widen(self, width: int) -> None:
        """Of this statistic, too."""
        super().widen(width)
        self.scatter = widened(self.scatter, (width, width))

    def solve(self) -> Solution:
        """The weights (width, classes) and biases (classes)."""
        (mean,) = super().solve()
        covariance = (1 - self.eps) / self.counts.sum() * self.scatter
        covariance.diagonal().add_(self.eps)
        weight = solve_definite(covariance, mean.T, f"eps must be larger than {self.eps}")
        return weight, -(weight.T * mean).sum(1) / 2

    def scores(self, h: Tensor, *solution: Tensor) -> Tensor:
        """A linear classifier."""
        weight, bias = solution
        return h @ weight + bias
