"""Riemannian walk: hold the weights that answers depend on, and those that lowered the loss most for their way.

Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018. arXiv:1801.10112
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch, by_label
from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.tracked import Tracked
from everlearn.models.fisher import fisher
from everlearn.models.quadratic import fitted, largest
from everlearn.models.views import Weights, average, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class RWalk(Tracked):
    """L = L_new + lambda * sum_i (F_i + s_i) (w_i - w_i*)^2, F and s each divided by its largest value.

    F <- alpha F_batch + (1 - alpha) F, from 0, every `every` steps. s_i adds up, over the intervals between, max(0,
    fall of the loss along w_i) / (1/2 F_i (movement of w_i)^2 + epsilon); at the end of an experience it is averaged
    with that of the past. The fall of the loss is the path of SI. Departure: F_batch, of the labels in the data, has
    the squares of single rows, in eval mode, and not of their mean; to pay for that, an interval has one such batch.
    """

    card: ClassVar[Card] = Card("regularisation", "1 forward, 1 backward over 1 of `every` batches", "7 x the weights")

    lambda_: float = 1.0
    alpha: float = 0.9
    """Share of the newest batch in the running Fisher information."""
    every: int = 10
    epsilon: float = 1e-3

    running: Weights = field(default_factory=dict, init=False)
    """F; then s of the past and of this experience, the weights as the interval began, and the steps taken."""
    past: Weights = field(default_factory=dict, init=False)
    score: Weights = field(default_factory=dict, init=False)
    start: Weights = field(default_factory=dict, init=False)
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(every=self.every)

    @property
    def strength(self) -> float:
        """Twice lambda: the paper has no 1/2."""
        return 2 * self.lambda_

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A new path starts at the present weights."""
        super().begin(model, experience, objective)
        self.start = {name: weight.detach().clone() for name, weight in trainable(model).items()}
        self.score = {name: torch.zeros_like(path) for name, path in self.path.items()}
        self.running = {name: path.float().clone() for name, path in self.path.items()} | self.running
        self.taken = 0

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the penalty, and looks at the rows of the first batch of an interval."""
        output = super().loss(model, batch, objective, rest)
        if self.path and output.loss is not None and self.taken % self.every == 0 and len(by_label(batch)[1]):
            new = fisher(model, [batch], objective, "empirical", pooled=False)  # another process may have no rows
            old = fitted(self.running, trainable(model), fill=0)
            self.running = old | {name: old[name].lerp(f, self.alpha) for name, f in new.items() if name in old}
        return output

    def after_step(self, model: nn.Module) -> None:
        """Adds the step to the path, and the path of an interval to the score."""
        super().after_step(model)
        self.taken += 1
        if self.taken % self.every == 0:
            self._arrive(model)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Turns the running Fisher information and the score into importance."""
        self._arrive(model)
        past = fitted(self.past, self.score, fill=0)
        self.past = past | {n: (past[n] + s) / 2 if n in past else s for n, s in self.score.items()}
        most, best = largest(self.running) or 1.0, largest(self.past) or 1.0
        self.importance = {n: f / most + self.past[n] / best for n, f in self.running.items() if n in self.past}
        self.hold(model)

    @torch.no_grad()
    def _arrive(self, model: nn.Module) -> None:
        weights = trainable(model)
        self.start, self.running = fitted(self.start, weights), fitted(self.running, weights, fill=0)
        self.path, self.score = fitted(self.path, weights, fill=0), fitted(self.score, weights, fill=0)
        average(self.running.values())
        for name in [name for name in weights if name in self.path]:
            distance = self.running[name] * (weights[name] - self.start[name]).square() / 2
            self.score[name] += self.path[name].clamp(min=0) / (distance + self.epsilon)
            self.start[name].copy_(weights[name])
            self.path[name].zero_()
