"""Distillation of features: on new data, the body sees what it saw before, in the same direction.

Hou et al., Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019 (the less-forget constraint).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn
from torch.nn import functional as F

from everlearn.batch import Batch, length, unlabeled
from everlearn.method import Card, Method
from everlearn.models.features import with_features
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class FeatDistill(Method):
    """L = L_new + lambda * mean over rows of (1 - cos(phi(x), phi_teacher(x))), with phi what the head sees.

    The teacher is the model after the last experience, in eval mode, asked about the same rows under the same
    augmentation; 1 - cos is half the squared distance of features of length 1. Departures: of the paper's four parts
    this is one, so the head is the model's own and not one by cosines, and lambda does not grow with the share of old
    classes.
    """

    card: ClassVar[Card] = Card("distillation", "1 forward of the teacher", "the weights")

    lambda_: float = 1.0
    head: str | None = None
    """The dotted name of the linear layer that sees the features; None for the last one."""

    teacher: Weights = field(default_factory=dict, init=False)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the distillation."""
        if not self.teacher or self.lambda_ == 0:
            return rest(model, batch)
        output, now = with_features(model, batch, rest, self.head)
        if output.loss is None:
            return output
        _, before = recall(model, self.teacher, with_features, unlabeled(batch), objective, self.head)
        now = now[: length(batch)]  # rows that the rest of the chain joined come behind
        away = 1 - F.cosine_similarity(now.float(), before.float())
        return Output(output.loss + self.lambda_ * away.mean(), output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """The model becomes its own teacher."""
        self.teacher = snapshot(model)
