"""What flows: a batch is a dict of columns of one length."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Column = Tensor | list[Any]
"""A tensor whose first dimension counts rows, or a list where rows differ in size (boxes, texts)."""

Batch = dict[str, Column]
"""Columns by name: "x", "y", "task", "domain", "id", ... all of the same length."""

UNLABELED = -100
"""The label of a row without one. `F.cross_entropy` ignores it already."""

ANSWERS = ("y", "labels")
"""The columns that hold what is to be predicted."""


@runtime_checkable
class Rows(Protocol):
    """A data set: something with a length, from which rows can be taken by position."""

    @property
    def resident(self) -> bool:
        """Whether the rows are tensors at hand: taking some is one gather, and needs no workers."""
        ...

    def __len__(self) -> int: ...

    def take(self, index: Tensor, /) -> Batch:
        """The rows at `index` (int64 positions, in any order, repeats allowed), as a batch of their own."""
        ...

    def column(self, name: str, /) -> Column:
        """All values of one column, without loading the others where that can be avoided."""
        ...


def length(batch: Batch) -> int:
    """The number of rows.

    >>> length({"x": torch.zeros(3, 2), "text": ["a", "b", "c"]})
    3
    """
    return _count(next(iter(batch.values()))) if batch else 0


def _count(column: Column) -> int:
    return column.shape[0] if isinstance(column, Tensor) and column.dim() else len(column)  # len() of a tensor is slow


def check(batch: Batch) -> None:
    """Raises a ValueError unless all columns have the same length."""
    if len(set(map(_count, batch.values()))) > 1:
        lengths = {name: len(column) for name, column in batch.items()}
        raise ValueError(f"the columns of a batch must have one length, but these have {lengths}")


def take(batch: Batch, index: Tensor | slice) -> Batch:
    """The rows that `index` picks: positions, a mask, or a slice.

    >>> take({"x": torch.arange(4), "text": ["a", "b", "c", "d"]}, torch.tensor([3, 1]))
    {'x': tensor([3, 1]), 'text': ['d', 'b']}
    """
    return {name: pick(column, index) for name, column in batch.items()}


def pick(column: Column, index: Tensor | slice) -> Column:
    """The entries of one column that `index` picks."""
    if isinstance(column, Tensor):
        if isinstance(index, Tensor):
            index = index.to(column.device)
            return column.index_select(0, index) if index.dtype != torch.bool else column[index]
        return column[index]
    if isinstance(index, slice):
        return column[index]
    positions = index.nonzero().flatten() if index.dtype == torch.bool else index
    return [column[position] for position in positions.tolist()]


def join(first: Batch, *others: Batch) -> Batch:
    """The rows of all batches, in order, on the device of `first`; only the columns that all of them have.

    >>> join({"x": torch.zeros(1), "id": torch.tensor([7])}, {"x": torch.ones(2)})
    {'x': tensor([0., 1., 1.])}
    """
    shared = [name for name in first if all(name in other for other in others)]
    return {name: _stack([first[name], *(other[name] for other in others)]) for name in shared}


def _stack(columns: Sequence[Column]) -> Column:
    head = columns[0]
    if isinstance(head, Tensor):
        return torch.cat([torch.as_tensor(column, device=head.device) for column in columns])
    return [value for column in columns for value in column]


def unlabeled(batch: Batch) -> Batch:
    """The batch without its answers: an objective then gives logits, and no loss."""
    return {name: column for name, column in batch.items() if name not in ANSWERS}


def labelled(batch: Batch) -> Batch:
    """The rows of the batch that have a label; all of them, where labels are no numbers of classes."""
    y = batch.get("y")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1 or not len(y) or int(y.min()) >= 0:
        return batch
    return take(batch, y != UNLABELED)


def by_label(batch: Batch) -> tuple[Tensor, Tensor]:
    """The positions of the rows without a label, and of those with one, int64.

    Rows have none where there is no column of answers; all have one where answers are no numbers of classes.

    >>> by_label({"x": torch.zeros(3), "y": torch.tensor([UNLABELED, 2, UNLABELED])})
    (tensor([0, 2]), tensor([1]))
    """
    y = next((batch[name] for name in ANSWERS if name in batch), None)
    if isinstance(y, Tensor) and y.dtype == torch.int64 and y.ndim == 1:
        known = y != UNLABELED
    else:
        known = torch.full((length(batch),), y is not None)
    return (~known).nonzero().flatten(), known.nonzero().flatten()


def unanswered(batch: Batch) -> Batch:
    """The batch with a label for each row: where it has no column "y", that of a row without one.

    >>> unanswered({"x": torch.zeros(2)})["y"]
    tensor([-100, -100])
    """
    if "y" in batch:
        return batch
    return batch | {"y": torch.full((length(batch),), UNLABELED)}


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {
        name: column.to(device, non_blocking=True) if isinstance(column, Tensor) and column.device != device else column
        for name, column in batch.items()
    }


def tensor(batch: Batch, name: str) -> Tensor:
    """The column `name`, which must be a tensor."""
    if name not in batch:
        raise KeyError(f"the batch has no column {name!r}; it has {sorted(batch)}")
    column = batch[name]
    if not isinstance(column, Tensor):
        raise TypeError(f"the column {name!r} must be a tensor, but it is a list of {len(column)}")
    return column
