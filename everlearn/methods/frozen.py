"""Frozen features: the body stays as it is, and what is known of the classes is counted, not trained."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from everlearn.batch import Batch, length
from everlearn.border import one_of
from everlearn.method import Method
from everlearn.models.body import labelled, look, looked
from everlearn.models.statistics import Derived, Solution, of_those_met, roomier, widened
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Frozen(Method):
    """A classifier in closed form on the features of a body that never changes: there is no loss to descend.

    Each row of an experience counts once, in however many epochs it comes: all are counted in one pass at its end, in
    eval mode and not augmented. Where none has begun (`Learner.observe`), rows count when they come. Rows without a
    label are passed over; a class never met has the score -inf; before the first row the answers are the model's.
    """

    head: str | None = field(default=None, kw_only=True)
    """The layer whose input is the features; None for the last linear one, or the output of a model without any."""
    precision: Literal["float64", "float32"] = field(default="float64", kw_only=True)

    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False)
    sums: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    """How many rows of each class there were, (classes), and the sums of their features, (classes, width)."""
    inside: bool = field(default=False, init=False)
    """Whether an experience has begun, at whose end its rows will be counted."""
    solved: Derived = field(default_factory=Derived, init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("precision", self.precision, ("float64", "float32"))

    def transform(self, h: Tensor) -> Tensor:
        """What is made of features, (rows, width), before they are counted or asked about."""
        return h

    def absorb(self, h: Tensor, y: Tensor, new: Tensor) -> None:
        """Counts more than `counts` and `sums` do, which are still those of the rows before `h`, with `new` to come."""

    def solve(self) -> Solution:
        """What follows from the statistics: the mean of each class."""
        return (self.sums / self.counts.clamp(min=1).unsqueeze(1),)

    def scores(self, h: Tensor, *solution: Tensor) -> Tensor:
        """The answers, (rows, classes), from what was solved."""
        raise NotImplementedError

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """The rows of `experience` will be counted at its end."""
        self.inside = True

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """No loss; the logits are the model's. Inside an experience nothing is to be done yet: there are no logits."""
        if self.inside:
            return Output(None, torch.empty(length(batch), 0))
        if distributed.is_available() and distributed.is_initialized():
            raise ValueError("each process would count rows of its own; learn experiences, or use one process")
        output, features = look(model, batch, objective, self.head)
        self._count(*labelled(features, batch))
        return output

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts the rows of the experience."""
        for features, y in looked(model, experience.train, torch.arange(len(experience.train)), objective, self.head):
            self._count(features, y)
        self.inside = False

    def widen(self, width: int) -> None:
        """Makes room for features that come from now on: they were 0 in all rows before."""
        self.sums, self.solved = widened(self.sums, (len(self.counts), width)), Derived()

    def _count(self, features: Tensor, y: Tensor) -> None:
        if not len(y):
            return
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            h = self.transform(features.to(getattr(torch, self.precision)))
            self.counts, self.sums = roomier(self.counts, self.sums, h, y)
            new = F.one_hot(y, len(self.counts)).to(h).T @ h
            self.absorb(h, y, new)
            self.sums, self.counts = self.sums + new, self.counts + torch.bincount(y, minlength=len(self.counts))
        self.solved.clear()

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """The scores."""
        output, features = look(model, batch, objective, self.head)
        if not len(self.counts):
            return output.logits
        with torch.autocast(features.device.type, enabled=False):
            scores = self.scores(self.transform(features.to(self.sums.dtype)), *self.solved.value(self.solve))
        return of_those_met(scores, self.counts, 0 if features is output.logits else output.logits.shape[1])
