"""Mahalanobis distances: a covariance for each class, made fit to be inverted and to be compared.

Goswami et al., FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual Learning,
NeurIPS 2023. arXiv:2309.14062
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.method import Card
from everlearn.methods.frozen import Frozen
from everlearn.models.statistics import Solution, deviations, widened


@dataclass
class FeCAM(Frozen):
    """score_k(x) = -(u - m_k)^T R_k^-1 (u - m_k), with u = h^lambda and m_k, its mean over class k, of length 1.

    R_k is the correlation matrix (entries over the deviations of their row and column) of the shrunk covariance
    Sigma_k + gamma1 V1 I + gamma2 V2 (1 - I), where V1 is the mean variance in Sigma_k, and V2 the mean covariance.
    Departures: m_k is the mean of the transformed features, of which Sigma_k is the covariance, and not the
    transformed mean; the inverse is the pseudo-inverse, as in the authors' code, whose lengths of 1 these are too;
    shrinkage is applied once; a class of one row has no covariance, and R_k = I.
    """

    card: ClassVar[Card] = Card(
        "frozen features",
        "none a step; at an end 1 forward over its rows",
        "a mean and a covariance for each class",
        alone=True,
    )

    gamma1: float = 1.0
    gamma2: float = 1.0
    lambda_: float = 0.5
    """The power of Tukey's transformation; 1 leaves features as they are, which may then be negative."""

    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, 0), init=False)
    """n_k Sigma_k, (classes, width, width)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lambda_ <= 1:
            raise ValueError(f"lambda, a power, must be above 0 and at most 1, but is {self.lambda_}")

    def transform(self, h: Tensor) -> Tensor:
        """Tukey's transformation."""
        if self.lambda_ != 1 and bool((h < 0).any()):
            raise ValueError(
                f"features as low as {float(h.min()):.3g} have no power {self.lambda_}; lambda_=1 leaves them alone"
            )
        return h**self.lambda_

    def absorb(self, h: Tensor, y: Tensor, new: Tensor) -> None:
        """Adds each row's difference from the mean of its class before it."""
        away, before, places = deviations(h, y, self.counts, self.sums)
        weighed = away * (before / (before + 1)).unsqueeze(1)
        self.scatter = widened(self.scatter.to(h), (len(self.counts), *(h.shape[1],) * 2))
        for label in torch.unique(y).tolist():
            mine = y[places] == label
            self.scatter[label].addmm_(weighed[mine].T, away[mine])

    def widen(self, width: int) -> None:
        """Of this statistic, too."""
        super().widen(width)
        self.scatter = widened(self.scatter, (len(self.counts), width, width))

    def solve(self) -> Solution:
        """The means (classes, width), and the inverses (classes, width, width)."""
        (mean,) = super().solve()
        # Features in float32 leave variances of 1e-14 in directions that have none: these are no part of a distance.
        least = max(1e-10, mean.shape[1] * torch.finfo(mean.dtype).eps)
        every = (self._correlation(label) for label in range(len(mean)))
        return F.normalize(mean), torch.stack([torch.linalg.pinv(each, rtol=least, hermitian=True) for each in every])

    def _correlation(self, label: int) -> Tensor:
        covariance = self.scatter[label] / self.counts[label].clamp(min=1)
        width, total = len(covariance), covariance.trace()
        shared = (covariance.sum() - total) / max(1, width * (width - 1))
        shrunk = covariance + self.gamma2 * shared
        shrunk.diagonal().add_(self.gamma1 * total / width - self.gamma2 * shared)
        varies = shrunk.diagonal() > 0
        deviation = shrunk.diagonal().where(varies, 1).sqrt()
        shrunk.diagonal().copy_(shrunk.diagonal().where(varies, 1))
        return shrunk / deviation / deviation.unsqueeze(1)

    def scores(self, h: Tensor, *solution: Tensor) -> Tensor:
        """The negative squared distances, class by class."""
        h = F.normalize(h)
        return torch.stack([-(((h - m) @ R) * (h - m)).sum(1) for m, R in zip(*solution, strict=True)], 1)
