"""EATA: TENT on rows that are reliable and say something new, held to the source by its Fisher information.

Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022. arXiv:2204.02610
"""

from dataclasses import dataclass, field
from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch
from everlearn.data.order import batches, epoch_order
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.fisher import fisher
from everlearn.models.norms import affine
from everlearn.models.quadratic import pull
from everlearn.models.resting import resting
from everlearn.models.spread import entropies
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class EATA(AtTestTime):
    """L = mean over S of exp(E_0 - H(x)) H(x) + beta sum_i F_i (w_i - w0_i)^2, over scales and shifts of the norms.

    S are the rows with H(x) < E_0 and |cos(softmax f(x), m)| < epsilon, m a moving average of the mean prediction over
    S; E_0 = E0 ln C and epsilon = eps / sqrt(C) with C classes. F is that of source rows, which an experience with
    labels is, or one shown to `Learner.remember`; without any the second term is missing (the paper's ETA). That term
    is EWC: `Chain(EWC(2 beta), EATA(beta=0))` is the same. Departures: eps is relative to sqrt(C), as the cosine of a
    sure answer with an even m is 1 / sqrt(C); F is the exact Fisher information of each row, not of batches.
    """

    card: ClassVar[Card] = Card(
        "test time",
        "none; once, a backward pass a class over source rows",
        "as tent, and F",
        ("normalisations",),
        measures=True,
    )

    E0: float = 0.4
    eps: float = 1.5
    beta: float = 1.0
    rows: int = 2000
    """Source rows that F is estimated from."""

    mean: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    """m; zeros before the first row of S."""
    importance: Weights = field(default_factory=dict, init=False)
    """F."""

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """To be sure where it is nearly so, and to stay near the source."""
        logits = look(model, target).logits
        h, p = entropies(logits), logits.detach().float().flatten(0, -2).softmax(1)
        classes = p.shape[1]
        if len(self.mean) != classes:
            self.mean = p.new_zeros(classes)
        edge = self.E0 * log(classes)
        chosen = (h < edge) & (F.cosine_similarity(p, self.mean[None]) < self.eps / classes**0.5)
        if not bool(chosen.any()):
            return Output(None, logits)
        h, p = h[chosen], p[chosen]
        self.mean = torch.where(self.mean.any(), 0.9 * self.mean + 0.1 * p.mean(0), p.mean(0))
        loss = ((edge - h.detach()).exp() * h).mean()
        if self.importance and self.beta:
            weights = trainable(model)
            loss = loss + pull({n: weights[n] for n in self.names}, self.source, self.importance, 2 * self.beta)
        return Output(loss, logits)

    def restore(self, model: nn.Module, where: Tensor) -> None:
        """Forgets what was said, too."""
        super().restore(model, where)
        self.mean = self.mean * ~where

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Estimates what labelled rows depend on."""
        super().end(model, experience, objective)
        names = affine(model)
        if not self.met and names and self.beta:
            order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
            with resting(model, but=names):
                self.importance = fisher(model, batches(experience.train, order, 128), objective)
