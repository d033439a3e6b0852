"""Linear probe: the body stays as it is, and the head is the logistic regression on its features, solved once.

Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016. arXiv:1610.01644
As a baseline of transfer: Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019. arXiv:1805.08974
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch, length
from everlearn.method import Card, Method
from everlearn.models.probing import install, probed
from everlearn.models.views import Weights
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Probe(Method):
    """W, b = argmin 1/2 |W|^2 + C sum_i CE(W z_i + b, y_i), with z the features of row i, standardised.

    The features of all rows are computed once, when an experience begins, in eval mode and not augmented; L-BFGS solves
    in float64, and the answer is written into the head with the first batch. There are no steps. Only the rows of
    classes that the experience has labels of are solved for, against the others as they are.
    """

    card: ClassVar[Card] = Card(
        "tuning", "none a step; at a beginning 1 forward over its rows", "nothing; until the first batch, the head",
        alone=True,
    )  # fmt: skip

    C: float = 1.0
    """The weight of the rows against the penalty: scikit-learn's."""
    head: str | None = None
    """The linear layer that answers; None for the last one. In a `MultiHead` it is the head of the task."""

    solution: Weights = field(default_factory=dict, init=False)
    inside: bool = field(default=False, init=False)
    """Whether an experience has begun and not ended."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks at the rows, and solves."""
        self.solution, self.inside = probed(model, experience, objective, self.head, self.C), True

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """No loss. Inside an experience the body is not asked again: there are no logits."""
        if torch.is_grad_enabled():  # else nothing is to be learned: a method looks at what a model knows already
            install(model, self.solution)
            self.solution = {}
        if not self.inside:
            return Output(None, objective(model, batch).logits.detach())
        return Output(None, torch.empty(length(batch), 0))

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Is ready for the next."""
        self.solution, self.inside = {}, False
