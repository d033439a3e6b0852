"""Learning without forgetting for many classes: a yes or no about each class, the teacher's for the old ones.

Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017, section 4.1. arXiv:1611.07725
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length, tensor, unlabeled
from everlearn.method import Card, Method
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class LwFMC(Method):
    """L = mean over rows of [ sum_{c new} BCE(s_c, 1 if y = c else 0) + sum_{c old} BCE(s_c, sigmoid(z_c / T)) ]
    with s = sigmoid(f(x)), and z the logits of the teacher: the model after the last experience, in eval mode.

    The sums run over the classes met so far, the answer is the largest s. This takes the place of the loss of the
    task; what methods that follow in the chain add to that stays. Departures: T, which the paper does not have (1);
    a class that comes back is learned from its labels.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("distillation", "1 forward of the teacher", "the weights", ("classes",))

    T: float = 1.0

    teacher: Weights = field(default_factory=dict, init=False)
    learned: list[int] = field(default_factory=list, init=False)
    """The classes of the experiences that have ended."""
    new: list[int] = field(default_factory=list, init=False)
    """The classes of this experience."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks which classes have come."""
        self.new = classes_of(experience)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Asks about each class by itself."""
        output = rest(model, batch)
        advice = advised(model, self.teacher, objective, batch, self.T)
        return binary(output, batch, advice, self.learned, self.new, alone=rest is objective)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """The model becomes its own teacher."""
        self.teacher = snapshot(model)
        self.learned, self.new = sorted({*self.learned, *self.new}), []


def classes_of(experience: Experience) -> list[int]:
    """The classes that the training rows have, ascending."""
    if experience.task is not None:
        raise ValueError(
            f"experience {experience.index} is of task {experience.task}, but here one head tells all classes apart; "
            "take by_class instead of by_task, or a method for heads by task: lwf, er"
        )
    y = experience.train.column("y")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.dim() != 1:
        kind = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else "a list"
        raise ValueError(f"this method is about classes, int64 of shape (rows,), but y is {kind}; use y.long()")
    return [c for c in torch.unique(y).tolist() if c != UNLABELED]


def advised(model: nn.Module, teacher: Weights, objective: Objective, batch: Batch, T: float) -> Tensor | None:  # noqa: N803
    """What the teacher says about each class, sigmoid(z / T); None where there is none yet."""
    return (recall(model, teacher, objective, unlabeled(batch)).logits.float() / T).sigmoid() if teacher else None


def binary(
    output: Output, batch: Batch, advice: Tensor | None, learned: list[int], new: list[int], *, alone: bool
) -> Output:
    """The `output` for `batch` with the loss of `LwFMC` in place of the cross-entropy.

    `alone` says that no method follows in the chain: the loss in it is nothing but that.
    """
    if output.loss is None:
        return output
    logits, y = output.logits, tensor(batch, "y")
    if len(logits) != length(batch):
        raise ValueError(
            f"a method that follows in the chain made {len(logits)} rows of {length(batch)}, but this one has to know "
            "the rows that it teaches; put the method that joins rows before it"
        )
    target = torch.zeros_like(logits, dtype=torch.float32).scatter_(1, y.clamp(min=0)[:, None], 1)
    old = [c for c in learned if c not in new]
    if old and advice is not None:
        target[:, old] = advice[:, old]
    met = sorted({*old, *new}) if new else list(range(logits.shape[1]))  # a stream without borders names no classes
    each = F.binary_cross_entropy_with_logits(logits[:, met].float(), target[:, met], reduction="none").sum(1)
    loss = each.masked_fill(y == UNLABELED, 0).sum() / (y != UNLABELED).sum()
    if not alone:
        loss = loss + (output.loss - F.cross_entropy(logits, y, ignore_index=UNLABELED))
    return Output(loss, logits)
