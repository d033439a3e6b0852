"""Rows at hand or on disk, and views of rows that copy nothing until some are taken."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from everlearn.batch import UNLABELED, Batch, Column, Rows, pick, take, tensor
from everlearn.data.items import Items, MapStyle, stack, within

Array = np.ndarray[Any, Any]
Values = Tensor | Array | list[Any]
Constant = bool | float | str | Tensor


class Columns:
    """Columns of one length: tensors, arrays and lists in memory, or memory-mapped arrays on disk.

    Nothing is copied: tensors and writeable arrays are shared with the caller; memory-mapped and read-only
    arrays stay where they are, and rows taken from them are read in the order of the file. Lists of numbers
    and arrays of strings become tensors and lists.

    >>> rows = Columns(x=torch.arange(6).view(3, 2), y=[0, 1, 0])
    >>> rows.take(torch.tensor([2, 0]))
    {'x': tensor([[4, 5],
            [0, 1]]), 'y': tensor([0, 0])}
    """

    resident = True

    def __init__(self, columns: Mapping[str, Values] | None = None, /, **named: Values) -> None:
        self._columns = {name: _held(name, values) for name, values in {**(columns or {}), **named}.items()}
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all columns must have one length, but these have {lengths}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`: one gather for each column."""
        return {
            name: _gather(column, index) if isinstance(column, np.ndarray) else pick(column, index)
            for name, column in self._columns.items()
        }

    def column(self, name: str) -> Column:
        """All values of one column; a memory-mapped one is read as a whole."""
        if name not in self._columns:
            raise KeyError(f"there is no column {name!r}; there are {sorted(self._columns)}")
        column = self._columns[name]
        return torch.from_numpy(column.copy()) if isinstance(column, np.ndarray) else column


class Subset:
    """The rows at `index` (int64 positions, repeats allowed). A subset of a subset is one subset.

    >>> rows = Subset(Subset(Columns(x=torch.arange(10)), torch.arange(5, 10)), torch.tensor([4, 0]))
    >>> rows.column("x"), rows.index
    (tensor([9, 5]), tensor([9, 5]))
    """

    def __init__(self, rows: Rows, index: Tensor | Sequence[int]) -> None:
        index = index if isinstance(index, Tensor) else torch.tensor(index, dtype=torch.int64)
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ValueError(
                f"an index must be int64 positions of shape (n,), but this is {index.dtype} of shape "
                f"{tuple(index.shape)}; a mask becomes one by mask.nonzero().flatten()"
            )
        index = within(index.cpu(), len(rows))
        self.rows: Rows = rows.rows if isinstance(rows, Subset) else rows
        self.index: Tensor = rows.index[index] if isinstance(rows, Subset) else index

    @property
    def resident(self) -> bool:
        """Whether the rows it is a part of are resident."""
        return self.rows.resident

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` of the subset."""
        return self.rows.take(self.index.index_select(0, index.cpu()))

    def column(self, name: str) -> Column:
        """The column's values at the subset's positions."""
        return pick(self.rows.column(name), self.index)


class Concat:
    """The rows of all parts, in order, with the columns that all parts have.

    One row of each part is looked at on construction: a column that is uint8 in one part and float32 in
    another is a ValueError there rather than a silent conversion later. Empty parts are left out.

    >>> rows = Concat([Columns(x=torch.tensor([1, 2]), y=[0, 0]), Columns(x=torch.tensor([3]))])
    >>> rows.take(torch.tensor([2, 0]))
    {'x': tensor([3, 1])}
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        if not parts:
            raise ValueError("Concat needs at least one part")
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, Concat) else (part,))]
        self.parts: tuple[Rows, ...] = tuple(part for part in flat if len(part)) or (flat[0],)
        self.names = _shared(self.parts)
        self._ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    @property
    def resident(self) -> bool:
        """Whether all parts are resident."""
        return all(part.resident for part in self.parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`: one take from each part that has some of them."""
        index = within(index.cpu(), len(self))
        owner = torch.bucketize(index, self._ends, right=True)
        order = owner.argsort(stable=True)
        counts = owner.bincount(minlength=len(self.parts)).tolist()
        taken = [
            part.take(positions - (end - len(part)))
            for part, end, positions in zip(
                self.parts, self._ends.tolist(), torch.split(index[order], counts), strict=True
            )
            if len(positions)
        ] or [self.parts[0].take(index)]
        batch = {name: _joined([part[name] for part in taken]) for name in self.names}
        return take(batch, order.argsort()) if len(taken) > 1 else batch

    def column(self, name: str) -> Column:
        """The column's values of all parts, in order."""
        if name not in self.names:
            raise KeyError(f"not all parts have a column {name!r}; all have {sorted(self.names)}")
        return _joined([part.column(name) for part in self.parts])


class Around:
    """Rows around other rows: as many of them, and resident where they are. What changes is for a subclass to say."""

    rows: Rows

    @property
    def resident(self) -> bool:
        """Whether the rows inside are resident."""
        return self.rows.resident

    def __len__(self) -> int:
        return len(self.rows)


class Relabelled(Around):
    """Rows whose label y becomes `table[y]`; UNLABELED stays, and all other columns do.

    `table` is int64 of shape (number of old labels,). A label it has no entry for is a ValueError on take.

    >>> Relabelled(Columns(y=[0, 1, 1, UNLABELED]), torch.tensor([5, 7])).column("y")
    tensor([   5,    7,    7, -100])
    """

    def __init__(self, rows: Rows, table: Tensor | Sequence[int]) -> None:
        self.rows = rows
        self.table = torch.as_tensor(table, dtype=torch.int64)

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`, under their new labels."""
        batch = self.rows.take(index)
        return {**batch, "y": self._new(tensor(batch, "y"))}

    def column(self, name: str) -> Column:
        """The column's values; those of "y" are the new labels."""
        column = self.rows.column(name)
        return self._new(tensor({name: column}, name)) if name == "y" else column

    def _new(self, labels: Tensor) -> Tensor:
        known = labels != UNLABELED
        strange = labels[known & ((labels < 0) | (labels >= len(self.table)))]
        if len(strange):
            raise ValueError(f"the table has entries for labels 0 to {len(self.table) - 1}, none for {int(strange[0])}")
        new = self.table.to(labels.device)[torch.where(known, labels, 0)] if len(self.table) else labels
        return torch.where(known, new, UNLABELED)


class With(Around):
    """Rows with more columns, each of one value: the task, the domain.

    Whole numbers become int64, others float32; a tensor is repeated for each row, a text becomes a list.

    >>> With(Columns(x=torch.zeros(2)), task=3).take(torch.tensor([1, 1]))
    {'x': tensor([0., 0.]), 'task': tensor([3, 3])}
    """

    def __init__(self, rows: Rows, **constants: Constant) -> None:
        self.rows = rows
        self.constants = constants

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`, with the constant columns."""
        return {
            **self.rows.take(index),
            **{name: _repeated(value, len(index)) for name, value in self.constants.items()},
        }

    def column(self, name: str) -> Column:
        """The column's values; a constant for each row where `name` is one."""
        return _repeated(self.constants[name], len(self)) if name in self.constants else self.rows.column(name)


def as_rows(data: object) -> Rows:
    """Whatever a user has, as rows.

    Takes rows; a dict of tensors, arrays or lists; a `TensorDataset` of x or of x and y; a `datasets.Dataset`
    of Hugging Face; and any map-style data set of dicts or of pairs (x, y), with PyTorch's own subsets and
    concatenations unwrapped, so that what is resident stays so. Raises a TypeError for anything else.

    >>> as_rows({"x": torch.zeros(4, 2), "y": torch.zeros(4, dtype=torch.int64)}).resident
    True
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, Mapping):
        return Columns(data)
    if "datasets" in sys.modules:  # whoever has such a data set has imported the library
        from everlearn.data.hub import Records, is_hub_dataset  # noqa: PLC0415 - an optional dependency

        if is_hub_dataset(data):
            return Records(data)
    if isinstance(data, Dataset):
        return _from_torch(data)
    if isinstance(data, MapStyle) and not isinstance(data, str | bytes | Tensor | np.ndarray):
        return Items(data)
    raise TypeError(_UNFIT.format(type(data).__name__))


_UNFIT = (
    "rows cannot be made from a {}; give a dict of columns such as {{'x': ..., 'y': ...}}, a TensorDataset "
    "of x and y, a Hugging Face Dataset, or a data set with __len__ and __getitem__ whose items are dicts or "
    "pairs (x, y)"
)


def _from_torch(data: Dataset[Any]) -> Rows:
    """A data set of PyTorch as rows, with the wrappers that PyTorch knows taken off."""
    match data:
        case TensorDataset(tensors=(x,)):
            return Columns(x=x)
        case TensorDataset(tensors=(x, y)):
            return Columns(x=x, y=y)
        case TorchSubset(dataset=inner, indices=indices):
            return Subset(as_rows(inner), list(indices))
        case ConcatDataset(datasets=parts):
            return Concat([as_rows(part) for part in parts])
        case TensorDataset() | IterableDataset():
            pass
        case MapStyle():
            return Items(data)
    raise TypeError(_UNFIT.format(type(data).__name__))


def _held(name: str, values: Values) -> Tensor | Array | list[Any]:
    """A column as it is kept: a tensor, a list, or an array that is read in place."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return list(values.tolist())
    if isinstance(values, list):
        return stack(values) if all(isinstance(value, bool | int | float) for value in values) else values
    if not isinstance(values, Tensor | np.ndarray):
        raise TypeError(
            f"the column {name!r} must be a tensor, an array or a list, but it is a {type(values).__name__}"
        )
    if values.ndim == 0:
        raise ValueError(f"the column {name!r} must have a first dimension that counts rows, but it is one number")
    if isinstance(values, Tensor):
        return values
    try:
        torch.from_numpy(np.empty(0, values.dtype))
    except (TypeError, ValueError):
        raise TypeError(
            f"the column {name!r} is an array of {values.dtype}, which is no tensor type; convert it"
        ) from None
    if isinstance(values, np.memmap) or not values.flags.writeable:
        return np.asarray(values)
    return torch.from_numpy(values)


def _gather(array: Array, index: Tensor) -> Tensor:
    positions = within(index, len(array)).cpu().numpy()
    order = positions.argsort(kind="stable")  # ascending, so that a disk is read forwards
    rows = np.empty((len(positions), *array.shape[1:]), array.dtype)
    rows[order] = array[positions[order]]
    return torch.from_numpy(rows)


def _shared(parts: Sequence[Rows]) -> tuple[str, ...]:
    """The columns that all parts have, in the order of the first; each must be of one kind."""
    samples = [part.take(torch.zeros(min(1, len(part)), dtype=torch.int64)) for part in parts]
    names = tuple(name for name in samples[0] if all(name in sample for sample in samples))
    for name in names:
        first, *others = [_kind(sample[name], part.resident) for sample, part in zip(samples, parts, strict=True)]
        for other in others:
            if not (first.startswith(other) or other.startswith(first)):
                raise ValueError(f"the column {name!r} is {first} in one part and {other} in another; make them alike")
    return names


def _kind(column: Column, resident: bool) -> str:
    if not isinstance(column, Tensor):
        return "a list"
    # One row tells nothing of the shape of the others where they are made one by one.
    return f"{column.dtype}" + (f" of shape {tuple(column.shape[1:])}" if resident else "")


def _joined(columns: Sequence[Column]) -> Column:
    tensors = [column for column in columns if isinstance(column, Tensor)]
    if len(tensors) == len(columns) and len({column.shape[1:] for column in tensors}) == 1:
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return [row for column in columns for row in column]


def _repeated(value: Constant, count: int) -> Column:
    if isinstance(value, str):
        return [value] * count
    constant = value if isinstance(value, Tensor) else torch.tensor(value)
    return constant.expand(count, *constant.shape).clone()
