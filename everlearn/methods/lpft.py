"""LP-FT: first the head is solved for on the features as they are, then all weights are tuned from there.

Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.
arXiv:2202.10054
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch, labelled
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.models.probing import install, probed
from everlearn.models.resting import settled_norms
from everlearn.models.views import Weights
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class LPFT(Method):
    """L = L_new, from W, b = argmin 1/2 |W|^2 + C sum_i CE(W z_i + b, y_i), with z the features of row i, standardised.

    A head of random weights pulls the features of the first steps anywhere; one that fits them does not. The head is
    solved for at the beginning of each experience, as `Probe` does it, and takes its place with the first batch.
    With a `memory` its rows count, too: of classes that arrive one after another in one head, each is then solved for
    against the others. It is filled with the rows that come by, as that of a replay beside it.
    Departures: the head is the minimum itself, where the authors take the best of a grid of C on validation rows; and a
    feature that is nearly always 0 is not blown up to the size of others, as its weights would tear at the body.
    """

    card: ClassVar[Card] = Card(
        "tuning",
        "none a step; at a beginning 1 forward over its rows",
        "until the first batch, the head; rows, if it has a memory",
    )

    C: float = 1.0
    """The weight of the rows against the penalty: scikit-learn's."""
    settled: bool = False
    """Whether normalisations keep the running statistics they have, and use them in training, too."""
    head: str | None = None
    """The linear layer that answers; None for the last one. In a `MultiHead` it is the head of the task."""
    memory: Memory | None = None
    """Rows of the past that the head is solved for, beside the new ones; None for none."""

    solution: Weights = field(default_factory=dict, init=False)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks at the rows, and solves."""
        old = self.memory if self.memory is not None and len(self.memory) else None
        self.solution = probed(model, experience, objective, self.head, self.C, old=old, least=_LEAST)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Fine-tuning."""
        if torch.is_grad_enabled():  # else nothing is to be learned: a method looks at what a model knows already
            self._take_place(model)
        with settled_norms(model, settled=self.settled):
            output = rest(model, batch)
        if self.memory is not None:
            self.memory.add(labelled(batch))
        return output

    def before_step(self, model: nn.Module) -> None:
        """Of several processes, one may have no share of the first batch."""
        self._take_place(model)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Is ready for the next."""
        self.solution = {}

    def _take_place(self, model: nn.Module) -> None:
        install(model, self.solution)
        self.solution = {}


_LEAST = 0.1
"""The smallest deviation of a feature that counts, as a share of what they are in the mean."""
