"""Where bad input stops: before a weight, a running statistic or a memory has seen it."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from everlearn.batch import UNLABELED, Batch, Rows, check, join, length, move, unanswered, unlabeled
from everlearn.models.scope import at_rest
from everlearn.models.views import evaluating
from everlearn.objective import Objective, Output, known


class NonFiniteError(ValueError):
    """A value that is NaN, infinite, or too large to square: one such row spoils all weights for good."""


def positive(**numbers: int) -> None:
    """Raises a ValueError unless each number is a whole number of at least 1."""
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but is {number!r}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")


def fusable(*, compiled: bool, precision: str, accumulate: int) -> None:
    """Raises a ValueError where one graph cannot hold what makes up a step."""
    if compiled:
        raise ValueError("fused=True and compile=True are two ways to make a step of graphs; take one")
    if precision != "float32" or accumulate != 1:
        raise ValueError(
            f"fused=True computes a batch at once, in float32; it was given precision={precision!r} and "
            f"accumulate={accumulate}. Leave fused=True out: what has work enough for those gains little by it"
        )


def clean(batch: Batch) -> None:
    """Raises unless the batch has rows, columns of one length, and floating columns that a float32 can square."""
    check(batch)
    if length(batch) == 0:
        raise ValueError("the batch has no rows")
    for name, column in batch.items():
        if isinstance(column, Tensor) and column.is_floating_point():
            wide = column if column.dtype in _WIDE else column.float()
            # One pass: no value can be larger than the root of the sum of all squares, and NaN compares false.
            if not torch.linalg.vector_norm(wide).item() < LARGEST:
                _point_at(name, column)


def _point_at(name: str, column: Tensor) -> None:
    rows = column.detach().double().reshape(len(column), -1)
    bad = ~(rows.abs() < LARGEST).all(1)  # NaN compares false
    if bad.any():
        row = int(bad.nonzero()[0])
        values = rows[row]
        value = float(values[~(values.abs() < LARGEST)][0])
        raise NonFiniteError(
            f"column {name!r} of row {row} of the batch holds {value}; values must be finite and below {LARGEST:.0e}. "
            "Nothing was learned from this batch. Clean or leave out the row"
        )


LARGEST = 1e15
"""What a value, and the norm of a column, must stay below: its square is a number, too."""
_WIDE = (torch.float32, torch.float64)


def finite_loss(loss: Tensor) -> None:
    """Raises `NonFiniteError` unless the loss is a finite scalar."""
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, but has shape {tuple(loss.shape)}; take its mean")
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss is {value}; the step was refused and the weights are as they were before it. "
            "A smaller learning rate, clip=1.0, or a smaller strength of the method usually helps; a penalty on the "
            'weights is stable only while learning rate x curvature < 2, or with step="proximal"'
        )


def finite_state(state: Mapping[str, Tensor], what: str) -> None:
    """Raises `NonFiniteError` if a tensor holds NaN or infinity: such a state is never saved over a good one."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"{what} {name!r} holds {int((~value.isfinite()).sum())} values that are not finite, so nothing was "
                "saved; go on from the last checkpoint with a smaller learning rate, or clip=1.0"
            )


def guarded(model: Callable[..., Any], batch: Batch, /, objective: Objective) -> Output:
    """The objective, checked before any method stores what came out of it.

    A batch in which no row has a label gives no loss, as if it had no column of labels.
    """
    output = objective(model, batch)
    loss, y = output.loss, batch.get("y")
    if loss is not None and not (loss.numel() == 1 and math.isfinite(loss.item())):
        if isinstance(y, Tensor) and y.dtype == torch.int64:
            if bool((y == UNLABELED).all()):
                return Output(None, output.logits)
            known(y, output.logits.shape[1])
        finite_loss(loss)
    return output


def same_settings(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raises a ValueError that names each setting in which a checkpoint and the learner differ."""
    other = [
        f"{name}: {saved.get(name)!r} then, {now!r} now" for name, now in current.items() if saved.get(name) != now
    ]
    if other:
        raise ValueError(
            "the checkpoint was made with other settings, so going on from it would not be exact ("
            + "; ".join(other)
            + "). Use the settings it was made with, or start a new run from its weights"
        )


def trainable_batches(
    model: nn.Module | None, rows: int, batch_size: int, accumulate: int, *, drop_last: bool, beside: int = 0
) -> None:
    """Raises a ValueError where an epoch would have no batch, or one that batch normalisation cannot normalise.

    The model is None where it is not asked about batches. `beside` each batch stand so many rows of a reference.
    """
    if rows == 0:
        raise ValueError("the experience has no rows to learn from")
    if drop_last and rows < batch_size:
        raise ValueError(f"drop_last leaves nothing: {rows} rows are less than one batch of {batch_size}")
    last = rows % batch_size or batch_size
    sizes = [max(1, batch_size // accumulate)] if rows >= batch_size else []
    if not drop_last:
        sizes.append(max(1, last // accumulate))
    if model is not None and min(sizes) + beside // accumulate == 1 and (norm := _batch_norm(model)):
        way_out = (
            "take batches of more rows" if batch_size // accumulate == 1 else "choose another batch_size, or drop_last"
        )
        raise ValueError(
            f"{rows} rows in batches of {batch_size} (in {accumulate} pieces) leave a batch of one row, which {norm} "
            f"cannot normalise; {way_out}"
        )


def stands_beside(rows: Rows, reference: Rows) -> None:
    """Raises a ValueError unless the rows of `reference` have labels, and are like `rows`."""
    if len(reference) == 0:
        raise ValueError("the reference has no rows; give labelled rows, or None for an experience by itself")
    first = torch.zeros(1, dtype=torch.int64)
    new, old = rows.take(first), reference.take(first)
    y = old.get("y")
    if y is None or (isinstance(y, Tensor) and bool((y == UNLABELED).all())):
        raise ValueError(
            "the first row of the reference has no label, but a reference is what is known: labelled rows, the source "
            "of an adaptation; rows without labels are the `train` of an experience"
        )
    if "y" not in new and isinstance(y, Tensor) and y.is_floating_point():
        raise ValueError(
            f"the rows have no label, and those of the reference are numbers ({y.dtype}); {UNLABELED}, which says that "
            "a row has no label, would be one of them, and be learned. Give classes as int64 (`y.long()`), or learn "
            "the labelled rows alone"
        )
    columns = [sorted(set(batch) - {"y", "id"}) for batch in (new, old)]
    if columns[0] != columns[1]:
        raise ValueError(f"the rows have the columns {columns[0]}, but those of the reference {columns[1]}")
    try:
        join(unanswered(new), old)
    except (RuntimeError, TypeError) as error:
        shapes = [{n: tuple(c.shape[1:]) for n, c in b.items() if isinstance(c, Tensor)} for b in (new, old)]
        raise ValueError(
            f"the rows have the shapes {shapes[0]}, but those of the reference {shapes[1]}; bring both to one size"
        ) from error


def has_labels(rows: Rows) -> None:
    """Raises a ValueError if the rows have no column of labels."""
    columns = rows.take(torch.zeros(1, dtype=torch.int64))
    if "y" not in columns:
        raise ValueError(
            f"the rows have no labels, only {sorted(set(columns) - {'id'})}, so nothing would be learned from them. "
            'Give labels as the column "y", labelled rows beside them (`reference`), or a method of test time (tent)'
        )


def adaptable(method: str, rows: int, norms: Collection[str], *, last: bool) -> None:
    """Raises a ValueError where `method` cannot adapt to so many rows: `norms` normalise by them, names of layers."""
    if not last:
        raise ValueError(
            f"{method} asks the model itself, so a method behind it would have no part in that; put {method} last: "
            f"Chain(..., {method}())"
        )
    if distributed.is_available() and distributed.is_initialized():
        raise ValueError(f"each process would watch its own rows for a collapse; use {method} in one process")
    if norms and rows == 1:
        raise ValueError(
            f"{method} was given a single row without a label, but the batch norm {next(iter(norms))!r} normalises by "
            "the batch, and one row is no sample; take batches of more rows (and accumulate=1), put the batch norms in "
            "eval mode before the learner is made, or take a model with layer or group norms"
        )


def _batch_norm(model: nn.Module) -> str | None:
    """The name of a batch normalisation that will run in train mode."""
    resting = at_rest(model)
    for name, module in model.named_modules():
        works = name not in resting and (module.training or not model.training)
        if works and isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
            return f"{type(module).__name__} {name!r}"
    return None


@torch.no_grad()
def fits(model: nn.Module, rows: Rows, objective: Objective, device: torch.device, *, labels: bool = True) -> None:
    """Raises a ValueError unless the model takes such rows and answers for as many classes as their `labels` name."""
    batch = rows.take(torch.arange(min(2, len(rows))))
    clean(batch)
    shapes = {name: tuple(c.shape[1:]) for name, c in batch.items() if isinstance(c, Tensor) and name != "id"}
    with evaluating(model):
        try:
            logits = objective(model, move(unlabeled(batch), device)).logits
        except RuntimeError as error:
            raise ValueError(f"the model cannot take rows of these shapes: {shapes}. torch says: {error}") from error
    if labels and rows.resident and "y" in batch:
        y = rows.column("y")
        if isinstance(y, Tensor) and y.ndim == 1 and y.dtype == torch.int64 and logits.ndim == 2:
            known(y, logits.shape[1])
