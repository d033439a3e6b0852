"""Supervised contrastive replay: rows of a class are drawn together, and the nearest of the class means answers.

Mai et al., Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online Class-Incremental
Continual Learning, CVPR Workshops 2021. arXiv:2103.13885
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, join, length, take, tensor, unlabeled
from everlearn.border import positive
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.methods.mir import labels
from everlearn.models.body import look
from everlearn.models.contrast import Projection, contrastive, unaugmented
from everlearn.models.features import with_features
from everlearn.models.heads import head_of
from everlearn.models.nearest import class_means, nearness
from everlearn.models.statistics import Derived
from everlearn.models.views import bare
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class SCR(Method):
    """L = mean over i of -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) ).

    i runs over new and old rows, seen augmented and once more as they are; P(i) are the others of its class. z = g(phi)
    has length 1, phi is what the head sees, g a projection that learns along. The nearest class mean over the memory
    answers, as in `ICaRL`; the head neither learns nor answers. Departures: without augmentation rows come once, and
    P(i) = {} leaves i out; a first batch, without old rows, is learned, too; the sample is as in `Replay`.
    """

    card: ClassVar[Card] = Card("replay", "old rows in the same pass; with a view, a second pass", "rows", ("classes",))

    memory: Memory
    count: int = 100
    """Old rows in each batch."""
    temperature: float = 0.07
    outputs: int = 128
    """Of the projection."""
    width: int | None = None
    """Features that the head sees; None to find out when an experience begins."""
    head: str | None = None
    seed: int = 0

    projection: Projection = field(default_factory=Projection, init=False)
    means: Derived = field(default_factory=Derived, init=False, repr=False)

    def __post_init__(self) -> None:
        positive(outputs=self.outputs, **{} if self.width is None else {"width": self.width})
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, but is {self.temperature!r}")
        if self.width:
            self.projection.make(self.width, self.outputs, mix(self.seed))

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Makes the projection, where there is none yet."""
        layer = head_of(bare(model), self.head)[1]
        self.projection.make(layer.in_features, self.outputs, mix(self.seed))
        self.projection.to(layer.weight)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Compares new and old rows; then new ones may enter the memory."""
        if "task" in batch:
            raise ValueError("scr answers with the nearest of all classes; without the column 'task', or take er")
        if not len(self.projection):
            raise ValueError("no experience has begun, so scr has to be told how many features the head sees: width=64")
        self.means.clear()
        rows = join(batch, old) if (old := self.memory.sample(self.count)) else batch
        output, phi = with_features(model, rows, rest, self.head)
        if len(phi) != length(rows):
            raise ValueError("scr has to know the rows that it compares; put the method that joins rows before it")
        if output.loss is not None:
            y, again = labels(rows, output.logits, "scr"), unaugmented(objective)
            views = [phi] if again is None else [phi, with_features(model, unlabeled(rows), again, self.head)[1]]
            z = F.normalize(self.projection(torch.cat(views)).float())
            loss = contrastive(z, y.repeat(len(views)), self.temperature)
            if rest is not objective:  # what follows in the chain keeps what it added
                loss = loss + (output.loss - F.cross_entropy(output.logits, y, ignore_index=UNLABELED))
            output = Output(loss, output.logits)
        if "y" in batch:
            self.memory.add(take(batch, tensor(batch, "y") != UNLABELED))
        return output

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Minus the squared distance to each mean, -inf for a class without; the logits while nothing is kept."""
        output, phi = look(model, batch, objective, self.head)
        if not len(self.memory):
            return output.logits
        means = partial(class_means, model, self.memory, objective, output.logits.shape[1], self.head)
        return nearness(phi, *self.means.value(means))
