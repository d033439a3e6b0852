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
from everlearn.method import Card, Method
from everlearn.models.fisher import fisher
from everlearn.models.quadratic import fitted, pull
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class EWC(Method):
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
    )

    lambda_: float = 1.0
    mode: Literal["separate", "online"] = "separate"
    gamma: float = 1.0
    """Share of the running importance that is kept, in online mode."""
    fisher: Literal["exact", "empirical"] = "exact"
    """Labels expected under the model itself, or those in the data."""
    rows: int | None = 5000
    """Rows of each experience that the importance is estimated from; None for all."""

    anchor: Weights = field(default_factory=dict, init=False)
    importance: Weights = field(default_factory=dict, init=False)
    spread: float = field(default=0.0, init=False)
    """Weighted variance of the anchors: the part of the separate penalties that no weight can lower."""

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("separate", "online"))
        one_of("fisher", self.fisher, ("exact", "empirical"))

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the penalty."""
        output = rest(model, batch)
        if not self.anchor or self.lambda_ == 0 or output.loss is None:
            return output
        weights = trainable(model)
        self.anchor, self.importance = fitted(self.anchor, weights), fitted(self.importance, weights, fill=0)
        penalty = pull(weights, self.anchor, self.importance, self.lambda_) + self.lambda_ / 2 * self.spread
        return Output(output.loss + penalty, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Estimates what this experience depends on."""
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        new = fisher(model, batches(experience.train, order, 128), objective, self.fisher)
        weights = trainable(model)
        now = {name: weight.detach().clone() for name, weight in weights.items()}
        old, before = fitted(self.importance, weights, fill=0), fitted(self.anchor, weights)
        for name in new.keys() & old.keys():
            if self.mode == "online":
                new[name] += self.gamma * old[name]
            else:
                total = old[name] + new[name]
                share = torch.where(total > 0, new[name] / total, 1.0)
                self.spread += float((old[name] * share * (now[name] - before[name]).square()).sum())
                now[name] = before[name].lerp(now[name], share)
                new[name] = total
        self.importance, self.anchor = old | new, before | now  # what is frozen now keeps what it had
