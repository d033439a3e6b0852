"""Elastic weight consolidation: hold on to the weights that old data depends on.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017. arXiv:1612.00796
Online: Schwarz et al., Progress & Compress, ICML 2018. arXiv:1805.06370
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from everlearn.batch import Batch
from everlearn.border import one_of
from everlearn.data.order import batches, epoch_order
from everlearn.method import Card
from everlearn.methods.anchored import Anchored
from everlearn.models.fisher import fisher
from everlearn.models.quadratic import fitted
from everlearn.models.views import trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class EWC(Anchored):
    """L = L_new + lambda / 2 * sum_t sum_i F_i^t (w_i - w_i^t)^2, with F^t the diagonal Fisher information at the
    end of experience t, of each row, in eval mode.

    `mode="separate"` has one such term for each experience. Their sum is itself one quadratic, about the mean of
    the anchors weighted by their importances; that one is stored, so the cost does not grow with experiences.
    `mode="online"` has one running importance, F <- gamma F + F^t, about the last weights.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "regularisation",
        "none a step; at an end a pass over `rows` rows, exact: a backward pass a class",
        "2 x the weights",
        measures=True,
    )

    lambda_: float = 1.0
    mode: Literal["separate", "online"] = "separate"
    gamma: float = 1.0
    """Share of the running importance that is kept, in online mode."""
    fisher: Literal["exact", "empirical", "weighted"] = "exact"
    """Labels expected under the model itself; those in the data; or those, each weighted by the p(y | x) that the
    model gives it, which is the term of "exact" that belongs to it."""
    rows: int | None = 5000
    """Rows of each experience that the importance is estimated from; None for all."""

    spread: float = field(default=0.0, init=False)
    """Weighted variance of the anchors: the part of the separate penalties that no weight can lower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mode", self.mode, ("separate", "online"))
        one_of("fisher", self.fisher, ("exact", "empirical", "weighted"))

    @property
    def strength(self) -> float:
        """Lambda."""
        return self.lambda_

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the penalty, with the part of it that no weight can lower."""
        output = super().loss(model, batch, objective, rest)
        if not self.spread or output.loss is None or self.step == "proximal":
            return output
        return Output(output.loss + self.lambda_ / 2 * self.spread, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Estimates what this experience depends on."""
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        new = fisher(model, batches(experience.train, order, 128), objective, self.fisher)
        weights = trainable(model)
        old, before = fitted(self.importance, weights, fill=0), fitted(self.anchor, weights)
        self.hold(model)
        for name in [name for name in new if name in old]:  # in order: `spread` is a sum
            if self.mode == "online":
                new[name] += self.gamma * old[name]
            else:
                now, total = self.anchor[name], old[name] + new[name]
                share = torch.where(total > 0, new[name] / total, 1.0)
                self.spread += float((old[name] * share * (now - before[name]).square()).sum())
                self.anchor[name] = before[name].lerp(now, share.to(now))
                new[name] = total
        self.importance = old | new  # what is frozen now keeps what it had
