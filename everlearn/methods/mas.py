"""Memory aware synapses: hold on to the weights that the answers are sensitive to; needs no labels.

Aljundi et al., Memory Aware Synapses: Learning what (not) to forget, ECCV 2018. arXiv:1711.09601
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from everlearn.data.order import batches, epoch_order
from everlearn.method import Card
from everlearn.methods.anchored import Anchored
from everlearn.models.fisher import sensitivity
from everlearn.models.quadratic import fitted
from everlearn.models.views import trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class MAS(Anchored):
    """L = L_new + lambda * sum_i Omega_i (w_i - w_i*)^2, where Omega_i grows by the mean over the rows x of an
    experience of |d ||f(x)||^2 / d w_i|, at its end, in eval mode.

    f are the logits, those of its own head where there are task labels; no label is looked at. The absolute value is
    of the gradient of each row: within a batch, opposite signs would cancel.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "regularisation",
        "none a step; at an end a forward and a backward pass over `rows` rows",
        "2 x the weights",
        measures=True,
    )

    lambda_: float = 1.0
    rows: int | None = 5000
    """Rows of each experience that the importance is estimated from; None for all, as in the paper."""

    @property
    def strength(self) -> float:
        """Twice lambda: the paper has no 1/2."""
        return 2 * self.lambda_

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Adds what the answers on this experience are sensitive to."""
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        new = sensitivity(model, batches(experience.train, order, 128), objective)
        old = fitted(self.importance, trainable(model), fill=0)
        self.importance = old | {name: value + old[name] if name in old else value for name, value in new.items()}
        self.hold(model)
