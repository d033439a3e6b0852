"""CWR*: each experience trains the rows of its classes in the head, and all rows are then put on one scale.

Lomonaco et al., Rehearsal-Free Continual Learning over Small Non-I.I.D. Batches, 2019. arXiv:1907.03799
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, tensor
from everlearn.method import Card, Method
from everlearn.models.heads import by_row, head_weights
from everlearn.models.nets import MultiHead
from everlearn.models.quadratic import fitted
from everlearn.models.resting import drop_gradients, resting
from everlearn.models.views import Weights, bare, recall
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class CWR(Method):
    """cw_j <- (cw_j p_j + tw_j - avg(tw)) / (p_j + 1), with p_j = sqrt(rows of class j before / rows of it now), for
    the classes j of an experience, at its end; avg is over all weights of these classes.

    tw, the head in training, starts with cw_j for these classes and 0 for all others; cw is the head that answers. The
    body learns in the first experience only, and is in eval mode from then on. Departure: biases, which the paper has
    not, are treated as weights are, with an average of their own. A head from elsewhere (`remember`) is taken as it is.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("architecture", "none, and no backward pass through the body", "the head")

    head: str | None = None
    """The linear layer that answers; None for the last one."""

    consolidated: Weights = field(default_factory=dict, init=False)
    """cw."""
    before: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False)
    now: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False)
    """Rows of each class before this experience, and in it; none between two of them."""
    started: bool = field(default=False, init=False)
    settled: bool = field(default=False, init=False)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts the rows of each class."""
        if type(bare(model)) is MultiHead:
            raise ValueError("CWR* puts the classes of one head on one scale, but a MultiHead has many; use packnet")
        y = tensor({"y": experience.train.column("y")}, "y")
        self.now = torch.bincount(y[y >= 0], minlength=1).to(next(bare(model).parameters()).device)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """From the second experience on, only the head is in the graph."""
        if torch.is_grad_enabled():  # else there is nothing to train, and the head stays as it is
            self._start(model)
        with resting(model, but=head_weights(bare(model), self.head)) if self.settled else nullcontext():
            return rest(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into the body."""
        self._start(model)  # of several processes, one may have no share of the first batch
        if self.settled:
            drop_gradients(model, but=head_weights(bare(model), self.head))

    @torch.no_grad()
    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Consolidates the head."""
        weights = head_weights(bare(model), self.head)
        self.consolidated = {n: w.detach().clone() for n, w in (self._new(model) if self.started else weights).items()}
        for name, weight in weights.items():
            weight.copy_(self.consolidated[name])
            before, now = (F.pad(counts, (0, len(weight) - len(counts))) for counts in (self.before, self.now))
        self.before, self.now = before.to(now) + now, self.now[:0]
        self.started, self.settled = False, True

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Answers with cw."""
        return recall(model, self._new(model) if self.started else {}, objective, batch).logits

    @torch.no_grad()
    def _start(self, model: nn.Module) -> None:
        if self.started or not len(self.now):
            return
        weights, self.started = head_weights(bare(model), self.head), True
        self.consolidated = fitted(self.consolidated or {n: w * 0 for n, w in weights.items()}, weights, fill=0)
        for name, weight in weights.items():
            weight.copy_(self.consolidated[name] * (by_row(self.now, weight) > 0))

    def _new(self, model: nn.Module) -> Weights:
        new = {}
        for name, weight in head_weights(bare(model), self.head).items():
            past, now, old = by_row(self.before, weight), by_row(self.now, weight), self.consolidated[name]
            share, there = (past / now).sqrt(), now > 0
            average = (weight * there).sum() / there.expand_as(weight).sum()
            new[name] = torch.where(there, (old * share + weight - average) / (share + 1), old)
        return new
