"""What a model gets right on rows that it did not learn from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, Rows, tensor, unlabeled

Kind = Literal["accuracy", "error"]
"""What is counted: right answers (more is better), or squared errors (less is better)."""


@dataclass(frozen=True)
class Result:
    """What one evaluation found: sums and counts, from which any mean can be computed later.

    `correct` is the number of right answers among the `count` labelled rows; for regression, the sum of
    their squared errors. `by_class` gives (right answers, rows) for each class among the labels. `loss` is
    the mean cross-entropy and `confusion` the int64 table of (true class, given class), both on request.

    >>> Result(correct=9, count=10).value
    0.9
    """

    correct: float
    count: int
    by_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    loss: float | None = None
    confusion: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def value(self) -> float:
        """The accuracy in [0, 1], or the mean squared error; nan where no row has a label."""
        return self.correct / self.count if self.count else float("nan")


def evaluate(
    predict: Callable[[Batch], Tensor],
    rows: Rows,
    *,
    names: Sequence[str] | None = None,
    among: Tensor | None = None,
    kind: Kind = "accuracy",
    loss: bool = False,
    confusion: bool = False,
    batch_size: int = 256,
) -> Result:
    """What `predict` gets right on `rows`, taken in their order.

    `predict` is given batches without answers. For `kind="accuracy"` it returns logits of shape
    (rows, classes), and `y` holds int64 class positions; rows with the label `UNLABELED` are not counted, and
    a label that the head does not have yet counts as a wrong answer. For `kind="error"` it returns
    predictions shaped as `y` ((rows,) and (rows, 1) are the same); the squared error of a row is averaged
    over its outputs.

    `names` are the names of the classes by position, for `by_class`; without them a position is its own name.
    `among` limits the answers to some class positions, by setting the other logits to minus infinity: that is
    what "task-incremental" means for a model with one head.

    The answers leave the device once, after the last batch. Raises a ValueError where the model gives NaN,
    since the largest of NaN logits is no answer.

    >>> from everlearn.batch import take
    >>> class Four:
    ...     resident = True
    ...     columns = {"x": torch.eye(2)[[0, 1, 1, 0]], "y": torch.tensor([0, 1, 0, UNLABELED])}
    ...     def __len__(self): return 4
    ...     def take(self, index): return take(self.columns, index)
    ...     def column(self, name): return self.columns[name]
    >>> evaluate(lambda batch: batch["x"], Four(), names=["cat", "dog"])
    Result(correct=2.0, count=3, by_class={'cat': (1, 2), 'dog': (1, 1)}, loss=None)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but it is {batch_size}")
    with torch.no_grad():
        if kind == "error":
            if names is not None or among is not None or loss or confusion:
                raise ValueError("names, among, loss and confusion are about classes; kind='error' has none")
            return _errors(predict, rows, batch_size)
        answers = _answers(predict, rows, batch_size, among, loss)
    return _count(answers, names, among, confusion)


@dataclass
class _Answers:
    """The labels and the given classes of all labelled rows, on the CPU; `width` is that of the logits."""

    y: Tensor
    given: Tensor
    width: int
    loss: float | None


def _answers(
    predict: Callable[[Batch], Tensor], rows: Rows, batch_size: int, among: Tensor | None, loss: bool
) -> _Answers:
    labels, given, losses, width = [], [], [], 0
    for batch in _batches(rows, batch_size):
        y = _labels(batch)
        logits = predict(unlabeled(batch))
        if logits.ndim != 2 or len(logits) != len(y):
            shape = tuple(logits.shape)
            raise ValueError(f"predict must give logits of shape ({len(y)}, classes), but they have {shape}")
        width = logits.shape[1]
        top, best = logits.max(dim=1)
        if among is not None:
            logits = _limited(logits, among)
            best = logits.argmax(dim=1)
        labels.append(y)
        # the largest of logits with a NaN is NaN; -1 stands for it until all answers leave the device at once
        given.append(torch.where(top.isnan(), -1, best))
        if loss:
            # a label beyond the head is reported below, by name; here it must not crash the device
            target = torch.where(y < width, y, UNLABELED).to(logits.device)
            losses.append(F.cross_entropy(logits, target, ignore_index=UNLABELED, reduction="sum"))
    if not labels:
        return _Answers(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 0, None)
    y, answers = torch.cat(labels).cpu(), torch.cat(given).cpu()
    _check_numbers(answers == -1)
    labelled = y != UNLABELED
    y = y[labelled]
    if loss and bool((y >= width).any()):
        raise ValueError(f"class {int(y.max())} has no loss: the model gives only {width} logits; pass loss=False")
    mean = float(torch.stack(losses).cpu().double().sum()) / len(y) if loss and len(y) else None
    return _Answers(y, answers[labelled], width, mean)


def _limited(logits: Tensor, among: Tensor) -> Tensor:
    positions = among.tolist()
    if not positions or min(positions) < 0 or max(positions) >= logits.shape[1]:
        raise ValueError(f"among must name positions in 0..{logits.shape[1] - 1}, but it is {positions}")
    allowed = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    allowed[positions] = True
    return logits.masked_fill(~allowed, -torch.inf)


def _count(answers: _Answers, names: Sequence[str] | None, among: Tensor | None, confusion: bool) -> Result:
    y, given = answers.y, answers.given
    if not len(y):
        return Result(correct=0.0, count=0)
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"classes need names that differ, but some of these occur twice: {list(names)}")
    if among is not None and not bool(torch.isin(y, among.cpu()).all()):
        outside = sorted(set(y[~torch.isin(y, among.cpu())].tolist()))
        raise ValueError(f"the labels {outside} are not among the classes {among.tolist()}")
    lowest, highest = int(y.min()), int(y.max())
    if lowest < 0:
        raise ValueError(f"labels must be class positions from 0, or {UNLABELED} for none, but one is {lowest}")
    if names is not None and highest >= len(names):
        raise ValueError(f"label {highest} has no name: only {len(names)} classes were named")
    size = max(answers.width, highest + 1)
    right = y == given
    name = [str(c) for c in range(size)] if names is None else names
    known = torch.bincount(y[right], minlength=size).tolist()
    asked = torch.bincount(y, minlength=size).tolist()
    return Result(
        correct=float(right.sum()),
        count=len(y),
        by_class={name[c]: (known[c], asked[c]) for c in range(size) if asked[c]},
        loss=answers.loss,
        confusion=_table(y, given, size) if confusion else None,
    )


def _table(y: Tensor, given: Tensor, size: int) -> Tensor:
    return torch.bincount(y * size + given, minlength=size * size).view(size, size)


def _errors(predict: Callable[[Batch], Tensor], rows: Rows, batch_size: int) -> Result:
    errors = []
    for batch in _batches(rows, batch_size):
        y = tensor(batch, "y")
        guess = predict(unlabeled(batch))
        if len(guess) != len(y) or guess.numel() != y.numel():
            # (rows, 1) against (rows,) would broadcast to rows x rows
            raise ValueError(f"predict gave shape {tuple(guess.shape)}, but y has {tuple(y.shape)}")
        guess = guess.to(torch.promote_types(guess.dtype, torch.float32)).reshape(len(y), -1)
        errors.append((guess - y.to(guess).reshape_as(guess)).square().mean(dim=1))
    if not errors:
        return Result(correct=0.0, count=0)
    error = torch.cat(errors).cpu().double()
    _check_numbers(~error.isfinite())
    return Result(correct=float(error.sum()), count=len(error))


def _batches(rows: Rows, size: int) -> Iterator[Batch]:
    for start in range(0, len(rows), size):
        yield rows.take(torch.arange(start, min(start + size, len(rows))))


def _labels(batch: Batch) -> Tensor:
    y = tensor(batch, "y")
    if y.dtype != torch.int64 or y.ndim != 1:
        raise TypeError(
            f"labels must be int64 class positions of shape (rows,), but y is {y.dtype} of shape "
            f"{tuple(y.shape)}; use `y.long()`, or kind='error' for regression"
        )
    return y


def _check_numbers(bad: Tensor) -> None:
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"the model gives NaN or infinity for {int(bad.sum())} of {len(bad)} rows, first for row {first}"
        )
