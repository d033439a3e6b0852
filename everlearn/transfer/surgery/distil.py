"""A student that learns to answer as a teacher of another architecture does.

Hinton et al., Distilling the Knowledge in a Neural Network, 2015. arXiv:1503.02531
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.batch import UNLABELED, Batch, Rows, length, tensor, unlabeled
from everlearn.data.rows import Around
from everlearn.learner import Learner
from everlearn.methods.lwf import distill
from everlearn.models.members import MakeOptimizer
from everlearn.models.views import bare, evaluating
from everlearn.objective import Objective, Output, classify
from everlearn.streams.experience import Experience


@dataclass(frozen=True)
class Imitate:
    """An objective: L = share * T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - share) * L_labels.

    The teacher is asked in eval mode, about the same rows under the same augmentation, and changes in nothing. Rows
    without a label count for the imitation only. As any objective, it stands with any method, view and precision.
    """

    teacher: nn.Module
    objective: Objective = classify
    T: float = 2.0
    share: float = 1.0

    def __call__(self, model: Callable[..., Any], batch: Batch) -> Output:
        """The student's logits, and the distance of its answers; a batch without a column of answers has no loss."""
        output = self.objective(model, batch)
        if "y" not in batch:
            return output
        with torch.no_grad(), evaluating(self.teacher):
            wanted = self.objective(self.teacher, unlabeled(batch)).logits
        if wanted.shape != output.logits.shape:
            raise ValueError(
                f"the teacher answers {tuple(wanted.shape)} and the student {tuple(output.logits.shape)}; give both "
                "the same classes in the same order (reclass)"
            )
        loss = self.share * distill(output.logits, wanted, self.T)
        if self.share < 1 and output.loss is not None and bool((tensor(batch, "y") != UNLABELED).any()):
            loss = loss + (1 - self.share) * output.loss
        return Output(loss, output.logits)


_ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True)
class Agreement:
    """The shares of rows that student and teacher give the same class, before and after."""

    before: float
    after: float


@dataclass(frozen=True)
class _Asked(Around):
    """Rows with a column of labels, `UNLABELED` where they have none: an objective then gives a loss."""

    rows: Rows

    def take(self, index: Tensor, /) -> Batch:
        batch = self.rows.take(index)
        return {"y": torch.full((length(batch),), UNLABELED)} | batch

    def column(self, name: str, /) -> Any:
        return self.take(torch.arange(len(self)))["y"] if name == "y" else self.rows.column(name)


def distil(
    teacher: nn.Module,
    student: nn.Module,
    rows: Rows,
    *,
    objective: Objective = classify,
    T: float = 2.0,  # noqa: N803 (the paper's name)
    share: float = 1.0,
    optimizer: MakeOptimizer = _ADAM,
    test: Rows | None = None,
    **options: Any,
) -> Agreement:
    """Teaches `student` to answer as `teacher` does on `rows`, which need no labels, and says how often it does.

    It is a `Learner` with the objective `Imitate`, to which `options` (epochs, batch_size, view, method, ...) go; use
    that itself to pause, or to resume. With `share` below 1, labels count for the rest. Agreement is that on `test`
    rows, or else on `rows`. The teacher stays as it is.
    """
    asked = _Asked(rows)
    learner = Learner(student, objective=Imitate(bare(teacher), objective, T, share), optimizer=optimizer, **options)
    judge = Learner(bare(teacher), objective=objective, optimizer=optimizer, view=learner.view)
    judged = asked if test is None else test
    before = _agreement(learner, judge, judged)
    learner.learn(Experience(0, asked, judged))
    return Agreement(before, _agreement(learner, judge, judged))


def _agreement(learner: Learner, judge: Learner, rows: Rows) -> float:
    same = 0
    for index in torch.split(torch.arange(len(rows)), 256):
        batch = rows.take(index)
        same += int((learner.predict(batch).argmax(-1) == judge.predict(batch).argmax(-1)).sum())
    return same / max(1, len(rows))
