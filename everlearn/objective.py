"""What a model is trained for, and nothing about how it remembers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, tensor


class Output(NamedTuple):
    """What came out of a batch. The outputs of Hugging Face models have the same two names."""

    loss: Tensor | None
    """The scalar to descend; None where there is nothing to descend."""
    logits: Tensor


class Objective(Protocol):
    """From a model and a batch to an output. A batch without answers gives logits and no loss."""

    def __call__(self, model: Callable[..., Any], batch: Batch, /) -> Output:
        """The loss of the batch, and the logits."""
        ...


def classify(model: Callable[..., Any], batch: Batch) -> Output:
    """Cross-entropy of `model(x)`, shape (rows, classes), with `y` (rows; `UNLABELED` rows add nothing)."""
    logits = model(tensor(batch, "x"))
    return Output(_cross_entropy(logits, batch), logits)


def classify_by_task(model: Callable[..., Any], batch: Batch) -> Output:
    """As `classify`, for models with a head for each task: `model(x, task)`, and `y` counts within the task."""
    logits = model(tensor(batch, "x"), tensor(batch, "task"))
    return Output(_cross_entropy(logits, batch), logits)


def regress(model: Callable[..., Any], batch: Batch) -> Output:
    """Mean squared error of `model(x)` against `y`; shapes (rows,) and (rows, 1) are the same."""
    prediction = model(tensor(batch, "x"))
    if "y" not in batch:
        return Output(None, prediction)
    target = tensor(batch, "y").to(prediction.dtype)
    if target.numel() != prediction.numel():
        raise ValueError(f"the model predicts shape {tuple(prediction.shape)}, but y has {tuple(target.shape)}")
    return Output(F.mse_loss(prediction, target.view_as(prediction)), prediction)


def ask(model: Callable[..., Any], batch: Batch) -> Output:
    """Hugging Face models, which take their columns by name and compute their own loss from `labels`."""
    answer = model(**{name: column for name, column in batch.items() if name not in _OURS})
    return Output(answer.loss, answer.logits)


_OURS = ("id", "task", "domain")


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor | None:
    if "y" not in batch:
        return None
    y = tensor(batch, "y")
    if y.dtype != torch.int64:
        raise TypeError(f"class labels must be int64 positions, but y is {y.dtype}; use `y.long()`, or `regress`")
    if y.is_cuda:  # where a label out of range would end the process; a learner refuses a loss of NaN instead
        strange = (y >= logits.shape[1]) | ((y < 0) & (y != UNLABELED))
        loss = F.cross_entropy(logits, y.where(~strange, UNLABELED), ignore_index=UNLABELED)
        return loss.masked_fill(strange.any(), torch.nan)
    try:
        return F.cross_entropy(logits, y, ignore_index=UNLABELED)
    except IndexError:
        known(y, logits.shape[1])
        raise


def known(y: Tensor, classes: int) -> None:
    """Raises a ValueError unless each label is `UNLABELED` or below `classes`."""
    named = y[y != UNLABELED]
    if len(named) and not 0 <= int(named.min()) <= int(named.max()) < classes:
        raise ValueError(
            f"labels go from {int(named.min())} to {int(named.max())}, but the model answers for the classes 0 to "
            f"{classes - 1}; let the head grow (GrowHead), or number the classes from 0"
        )


@dataclass(frozen=True)
class Viewed:
    """An objective that looks at rows through a view: raw rows come in, normalised (and augmented) ones are seen.

    Methods store and join raw rows; what the model sees is made at the last moment. `key` names the random
    draws of the view: within one step a row looks the same to the student, the teacher and the memory.
    None leaves augmentation out.
    """

    objective: Objective
    view: Callable[[Batch, int | None], Batch]
    key: int | None = None

    def __call__(self, model: Callable[..., Any], batch: Batch) -> Output:
        """The objective on the view of `batch`."""
        return self.objective(model, self.view(batch, self.key))
