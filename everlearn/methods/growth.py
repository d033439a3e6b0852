"""A head that grows: surgery as a method, so that it stands where the chain shows it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from everlearn.method import Card, Method
from everlearn.models.heads import grow
from everlearn.models.nets import MultiHead
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class GrowHead(Method):
    """Gives the head an output for each class met so far, before the first batch that needs it.

    Old outputs keep their weights, bit for bit, and the optimizer its moments for them. A `MultiHead` gets a
    head for each task.
    """

    card: ClassVar[Card] = Card("architecture", "none", "nothing")

    head: str | None = None
    """The dotted name of the linear layer; None for the last one."""
    seed: int = 0
    """For the weights of new outputs."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Grows to the largest class of `experience`."""
        if isinstance(model, MultiHead):
            model.grow_tasks((experience.task or 0) + 1)
        elif experience.classes:
            grow(model, max(experience.classes) + 1, self.head, seed=self.seed)
