"""Learning without forgetting: on new data, answer about old classes as before.

Li and Hoiem, Learning without Forgetting, ECCV 2016. arXiv:1606.09282
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, join, length, tensor, unlabeled
from everlearn.method import Card, Method
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class LwF(Method):
    """L = L_new + lambda_o * T^2 * KL(softmax(teacher / T) || softmax(student / T)), over the old classes.

    The teacher is the model as it was after the last experience, in eval mode, asked about the same rows under
    the same augmentation. Departures: the factor T^2 (Hinton et al., 2015. arXiv:1503.02531) makes `lambda_o`
    independent of T; KL instead of cross-entropy has the same gradient and is 0 where nothing is forgotten; new
    outputs are not warmed up first. With task labels, each old head is asked about the new rows, and their lessons
    are summed, as in the paper.
    """

    card: ClassVar[Card] = Card("distillation", "1 forward of the teacher", "the weights")

    lambda_o: float = 1.0
    T: float = 2.0

    teacher: Weights = field(default_factory=dict, init=False)
    classes: list[int] = field(default_factory=list, init=False)
    """The classes that the teacher knows; none if the experiences name none, which means all its outputs."""
    tasks: list[int] = field(default_factory=list, init=False)
    """The tasks that the teacher has heads for, where there are task labels."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the distillation."""
        output = rest(model, batch)
        if not self.teacher or self.lambda_o == 0 or output.loss is None:
            return output
        question = unlabeled(batch)
        if self.tasks:
            told = tensor(batch, "task")
            question = join(*(question | {"task": torch.full_like(told, task)} for task in self.tasks))
            now = objective(model, question).logits
        else:
            now = output.logits[: length(batch)]  # rows that the rest of the chain joined come behind
        before = recall(model, self.teacher, objective, question).logits
        old = self.classes or list(range(before.shape[-1]))
        lesson = distill(now[..., old], before[..., old], self.T) * max(1, len(self.tasks))
        return Output(output.loss + self.lambda_o * lesson, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """The model becomes its own teacher."""
        self.teacher = snapshot(model)
        self.classes = sorted({*self.classes, *experience.classes})
        if experience.task is not None:
            self.tasks = sorted({*self.tasks, experience.task})


def distill(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits with classes in the last dimension, mean over all others."""
    now, before = ((z.float().flatten(0, -2) / temperature).log_softmax(1) for z in (student, teacher))
    return temperature**2 * F.kl_div(now, before, log_target=True, reduction="batchmean")
