"""Where kept rows lie: slots, and the rows in RAM (or in the memory of an accelerator)."""

from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import Batch, Column, length, pick, tensor


class Store(Protocol):
    """Rows in the slots 0 ... count - 1."""

    template: Batch
    """The columns without rows: their names, dtypes and shapes."""

    def write(self, slots: Tensor, rows: Batch) -> None:
        """Puts rows into slots, (n,) int64, ascending; those beyond the last follow it without a hole."""
        ...

    def gather(self, slots: Tensor, *names: str) -> Batch:
        """A copy of the rows in these slots, (n,) int64; of all columns, or of those named."""
        ...

    def widen(self, name: str, like: Tensor) -> None:
        """Gives the vectors of floats in a column NaN at the end, until they are as long as those in `like`."""
        ...

    def shrink(self, count: int, sources: Tensor, targets: Tensor) -> None:
        """Moves rows to other slots, and erases all but the first `count`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What brings back the store: plain values that nothing changes later."""
        ...


class Ram:
    """Rows in columns of full length, allocated once: pages of empty slots cost nothing until written."""

    def __init__(self, capacity: int, columns: Batch) -> None:
        self.template = template(columns)
        self.count = 0
        self._columns: Batch = {name: _allocate(column, capacity) for name, column in columns.items()}
        self._plain = all(isinstance(column, Tensor) and column.device.type == "cpu" for column in columns.values())

    @classmethod
    def restore(cls, capacity: int, state: dict[str, Any]) -> "Ram":
        """The store that `state_dict` described, on the devices where the tensors of the state lie."""
        rows: Batch = state["columns"]
        store = cls(capacity, rows)
        if length(rows):
            store.write(torch.arange(length(rows)), rows)
        return store

    def write(self, slots: Tensor, rows: Batch) -> None:
        """Puts rows into slots, (n,) int64, ascending; those beyond the last follow it without a hole."""
        ends = slots.numpy()  # numpy is the quicker one to ask for a number
        first, last = int(ends[0]), int(ends[-1])
        where = slice(first, last + 1) if last - first + 1 == len(ends) else slots
        for name, column in rows.items():
            held = self._columns[name]
            if isinstance(held, Tensor) and isinstance(column, Tensor):
                new = column
                if new.shape[1:] != held.shape[1:]:  # vectors of floats have become longer, or shorter
                    if wider(new, held):
                        self.widen(name, held.new_empty((0, new.shape[1])))
                        held = tensor(self._columns, name)
                    new = widened(new, held)
                _put(held, where, new.to(held.device))
            elif isinstance(held, list):
                for slot, value in zip(slots.tolist(), column, strict=True):
                    # A copy: one row must not keep the whole of a batch alive.
                    held[slot] = value.detach().clone() if isinstance(value, Tensor) else value
        self.count = max(self.count, last + 1)

    def gather(self, slots: Tensor, *names: str) -> Batch:
        """A copy of the rows in these slots, (n,) int64; of all columns, or of those named."""
        if self._plain and not names:  # old rows are drawn at every step: nothing is asked of each column then
            return {name: column.index_select(0, slots) for name, column in self._columns.items()}  # type: ignore[union-attr]
        return {name: pick(self._columns[name], slots) for name in names or self._columns}

    def widen(self, name: str, like: Tensor) -> None:
        """Gives the vectors of floats in a column NaN at the end, until they are as long as those in `like`."""
        self.template[name] = like
        self._columns[name] = widened(tensor(self._columns, name), like)

    def shrink(self, count: int, sources: Tensor, targets: Tensor) -> None:
        """Moves rows to other slots, and erases all but the first `count`."""
        if len(targets):
            self.write(targets, self.gather(sources))
        for column in self._columns.values():
            if isinstance(column, Tensor):
                column[count : self.count].zero_()
            else:
                column[count : self.count] = [None] * (self.count - count)
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        """A copy of the rows."""
        return {"columns": self.gather(torch.arange(self.count))}


def template(batch: Batch) -> Batch:
    """The columns of a batch without its rows, and without keeping them alive."""
    return {n: c.new_empty((0, *c.shape[1:])) if isinstance(c, Tensor) else [] for n, c in batch.items()}


def fits(batch: Batch, columns: Batch) -> None:
    """Raises a ValueError unless the batch has these columns: their names, dtypes, and shapes of a row.

    Only the length of vectors of floats may differ: logits of a head that has grown.
    """
    if batch.keys() != columns.keys():
        raise ValueError(
            f"the first batch fixed the columns of this memory to {sorted(columns)}, but this one has "
            f"{sorted(batch)}; add batches with the same columns"
        )
    for name, first in columns.items():
        if not _alike(batch[name], first):
            raise ValueError(
                f"the first batch fixed the column {name!r} to {_described(first)}, but now it is "
                f"{_described(batch[name])}; convert it, or use another memory"
            )


def row_bytes(batch: Batch) -> int:
    """The bytes of one row in tensor columns."""
    return sum(c.shape[1:].numel() * c.itemsize for c in batch.values() if isinstance(c, Tensor))


def as_bytes(column: Tensor) -> Tensor:
    """A contiguous column, (n, ...), as its bytes, (n, bytes of a row) uint8, in the same memory."""
    return column.view(len(column), -1).view(torch.uint8)


def wider(column: Column, than: Column) -> bool:
    """Whether both hold vectors of floats, and those in `column` are longer."""
    return _vectors(column) and _vectors(than) and column.shape[1] > than.shape[1]


def widened(column: Tensor, like: Tensor) -> Tensor:
    """Vectors of floats with NaN at the end, where those in `like` are longer; else the column itself."""
    return F.pad(column, (0, like.shape[1] - column.shape[1]), value=torch.nan) if wider(like, column) else column


def _vectors(column: Column) -> TypeGuard[Tensor]:
    return isinstance(column, Tensor) and column.dim() == 2 and column.is_floating_point()


def _alike(first: Column, second: Column) -> bool:
    if isinstance(first, list) or isinstance(second, list):
        return isinstance(first, list) and isinstance(second, list)
    shaped = first.shape[1:] == second.shape[1:] or (_vectors(first) and _vectors(second))
    return shaped and first.dtype == second.dtype


def _described(column: Column) -> str:
    return f"{column.dtype} of shape {tuple(column.shape[1:])}" if isinstance(column, Tensor) else "a list"


def _allocate(column: Column, capacity: int) -> Column:
    return column.new_empty((capacity, *column.shape[1:])) if isinstance(column, Tensor) else [None] * capacity


def _put(held: Tensor, slots: Tensor | slice, rows: Tensor) -> None:
    """held[slots] = rows, for different slots."""
    if isinstance(slots, slice):
        held[slots] = rows
    elif held.device.type == "cpu" and held.itemsize == 1:
        # numpy copies whole rows, and index_copy_ byte by byte: for pixels that takes several times as long.
        held.view(torch.uint8).numpy()[slots.numpy()] = rows.view(torch.uint8).numpy()
    else:
        held.index_copy_(0, slots.to(held.device), rows)
