"""Random projections: ridge regression on random ReLU features, with a strength chosen on rows held out.

McDonnell et al., RanPAC: Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023.
arXiv:2307.02251
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.data.order import epoch_order
from everlearn.method import Card
from everlearn.methods.ridge import Ridge
from everlearn.models.body import looked
from everlearn.models.statistics import best_strength, widened
from everlearn.objective import Objective
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class RanPAC(Ridge):
    """`Ridge` on relu(h P), with P (width, M) from N(0, 1), drawn once.

    At the end of an experience lambda becomes that of 10^-8, 10^-7, ... 10^8 with which the other rows of that
    experience alone predict a share `holdout` of it best, by squared error. One eigendecomposition serves all
    seventeen, and G and C of the two parts serve as their rows. Departures: M is 2,000 unless you say 10,000, as the
    paper does; its first phase, which tunes the body on the first experience, is yours to run before.
    """

    card: ClassVar[Card] = Card(
        "frozen features",
        "none a step; at an end 1 forward over its rows",
        "M x (M + width + classes)",
        alone=True,
    )

    M: int = 2000
    holdout: float = 0.2
    """0 keeps `lambda_`, which otherwise stands until the first experience has ended."""
    seed: int = 0
    """Of P."""

    P: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    chosen: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must be a share from 0 to below 1, but is {self.holdout}")

    def transform(self, h: Tensor) -> Tensor:
        """The random features."""
        if not len(self.P):
            self.widen(h.shape[1])
        self.P = self.P.to(h)
        return (h @ self.P).relu_()

    def widen(self, width: int) -> None:
        """Draws what P lacks for features that come from now on: they were 0 in all rows before."""
        before = len(self.P)
        generator = torch.Generator().manual_seed(mix(self.seed, before) if before else self.seed)
        more = torch.randn(width - before, self.M, generator=generator)
        self.P = torch.cat([self.P, more.to(self.P)]) if before else more

    @property
    def strength(self) -> float:
        """The lambda that was chosen last, or else the one that was given."""
        return self.lambda_ if self.chosen is None else self.chosen

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts the rows of the experience in two parts, and chooses lambda by them."""
        rows = experience.train
        order = epoch_order(len(rows), self.seed, experience.index, 0)
        cut = len(rows) - round(len(rows) * self.holdout)
        parts = []
        for positions in (order[:cut], order[cut:]):
            before = self.G.clone(), self.sums.clone()
            for features, y in looked(model, rows, positions, objective, self.head):
                self._count(features, y)
            now = self.G, self.sums
            parts.append([new - widened(old.to(new), new.shape) for old, new in zip(before, now, strict=True)])
        self.inside = False
        (gram, cross), (held_gram, held_cross) = parts
        if bool(cross.any()) and bool(held_cross.any()):  # there are labelled rows in both
            self.chosen = best_strength(gram, widened(cross, held_cross.shape), held_gram, held_cross)
            self.solved.clear()
