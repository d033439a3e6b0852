"""Hedge: exits at all depths learn at once, and those that have been right weigh more.

Sahoo et al., Online Deep Learning: Learning Deep Neural Networks on the Fly, IJCAI 2018. arXiv:1711.03705
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from everlearn.batch import ANSWERS, Batch, length
from everlearn.border import guarded, one_of
from everlearn.method import Card, Method
from everlearn.models.exits import exits_of, weighed
from everlearn.models.fused import Fused
from everlearn.models.views import average, bare, total
from everlearn.objective import Objective, Output, Viewed
from everlearn.streams.experience import Experience


@dataclass
class Hedge(Method):
    """F = sum_l alpha_l f_l, and L = sum_l alpha_l L_l, alpha being constant in it.

    After the step alpha_l <- max(floor, alpha_l beta^c_l), and their sum is made 1. c_l in [0, 1] is the cost of exit l
    at the weights before the step; the floor keeps each exit learning. "paper": c = 1 - exp(-L), which for one row is
    1 - p(y), and floor = s / depth, depth being the number of exits behind a layer. "authors": c = (L - min L) /
    (max L - min L), 0 where all are equal, and floor = 0.01. alpha is a part of the model. Departures: the paper only
    assumes that losses are in [0, 1]; rows may come in batches, whose mean loss counts; any optimizer.
    """

    card: ClassVar[Card] = Card("architecture", "none", "the weight of each exit, in the model", ("exits",))

    beta: float = 0.99
    s: float = 0.2
    rule: Literal["paper", "authors"] = "paper"

    costs: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    """The losses of the exits, summed over the rows since the last step."""
    rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        one_of("rule", self.rule, ("paper", "authors"))
        if not (0 <= self.beta <= 1 and 0 <= self.s <= 1):
            raise ValueError(f"beta and s must be from 0 to 1, but are {self.beta} and {self.s}")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Refuses a model that has one exit only."""
        exits_of(model)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """One pass, of which each exit has a loss."""
        net = exits_of(model)
        if rest is not objective:
            raise ValueError("Hedge asks the exits themselves, so a method behind it would have no part; put it last")
        if isinstance(objective, Viewed):
            batch = objective.view(batch, objective.key)
            objective = objective.objective
        if isinstance(objective, partial) and objective.func is guarded:  # the loss that is descended is guarded below
            objective = objective.keywords["objective"]
        found: Sequence[Any]
        if isinstance(objective, Fused) and any(name in batch for name in ANSWERS):
            found = objective.through(weighed, batch)
        else:  # compiled, it would not tell its exits apart
            found = weighed(bare(model), batch, objective)
        loss, logits, losses = found
        output = guarded(model, batch, objective=lambda *_: Output(loss, logits))
        if output.loss is not None and torch.is_grad_enabled():
            rows = length(batch)
            if not self.rows or net.head.weight.grad is None:  # the first of a step: nothing is left of a refused one
                self.costs, self.rows = losses * rows, rows
            else:
                self.costs, self.rows = self.costs + losses * rows, self.rows + rows
        return output

    def after_step(self, model: nn.Module) -> None:
        """The exits are weighed anew, by what they said before the step."""
        net = exits_of(model)
        alpha, rows = net.alpha, total(self.rows, net.alpha.device)
        losses = self.costs / rows if self.rows else torch.zeros_like(alpha)
        self.costs, self.rows = torch.zeros(0), 0
        if not rows:
            return
        average([losses], 1.0)  # a sum: each process has divided its own by the rows of all
        if self.rule == "paper":
            c, floor = -torch.expm1(-losses.clamp(min=0)), self.s / len(net.taps)
        else:
            low, high = losses.aminmax()
            c, floor = (losses - low) / (high - low).clamp(min=torch.finfo(losses.dtype).tiny), 0.01
        alpha.mul_(self.beta ** c.nan_to_num(1.0)).clamp_(min=floor)
        alpha.div_(alpha.sum())
