"""Kept rows on disk: append-only segments, and in RAM a table of which of their rows lies in which slot."""

import os
import zlib
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from everlearn.batch import Batch, move, tensor
from everlearn.checkpoint import sync
from everlearn.memory.store import as_bytes, row_bytes, template, widened, wider

_SPARE = 1024
"""Rows that a segment takes beyond twice the capacity: small memories are not rewritten all the time."""

_STATES = 4
"""The last states whose segments are kept: three checkpoints, and the one that is being written."""

_BLOCK = 1 << 24
"""Bytes that are read or rewritten at a time."""

_CPU = torch.device("cpu")


class Disk:
    """Rows in memory-mapped files that are only ever appended to.

    A row that leaves its slot stays in its file, so the table of an older checkpoint still finds it. When a
    segment is full, or rows were forgotten, those in use are written to a new one. A segment is deleted once
    none of the last four states refers to it. To load a state is to go back to it: what was appended later is
    written over.

    Each store has a numbered folder of its own inside `folder`; what an earlier run left there stays
    untouched.
    """

    def __init__(self, folder: Path, capacity: int, state: dict[str, Any]) -> None:
        """The store that `state` describes, from `state_dict` or from `unused`.

        Raises a FileNotFoundError if a file is gone, and a ValueError if one is too short or has changed.
        """
        self.template: Batch = dict(state["template"])
        self.count = len(state["positions"])
        self._run, self._generation = state["run"], state["generation"]
        self._folder = folder / _number(self._run)
        self._limit = 2 * capacity + _SPARE
        self._segment = Segment(
            self._folder,
            self._generation,
            self.template,
            self._limit,
            length=state["length"],
            checksums=state["checksums"],
        )
        self._positions = torch.empty(capacity, dtype=torch.int64)  # of each slot, in the segment
        self._positions[: self.count] = state["positions"]
        self._referred = deque(state["referred"], maxlen=_STATES)  # the generations of the last states
        self._forgot = False

    @staticmethod
    def unused(folder: Path, columns: Batch) -> dict[str, Any]:
        """The state of a store for such columns that holds nothing yet, in a new folder of its own.

        Raises a TypeError for lists, and a ValueError for rows without bytes: neither can lie in a file.
        """
        for name, column in columns.items():
            if not isinstance(column, Tensor):
                raise TypeError(
                    f"a memory on disk holds tensors, but the column {name!r} is a list; leave out the folder"
                )
            if not column.shape[1:].numel():
                raise ValueError(f"rows of shape {tuple(column.shape[1:])} in {name!r} have nothing to write to disk")
        return {
            "run": _claim(folder),
            "generation": 0,
            "referred": [0],
            "length": 0,
            "checksums": dict.fromkeys(columns, 0),
            "positions": torch.empty(0, dtype=torch.int64),
            "template": move(template(columns), _CPU),
        }

    def write(self, slots: Tensor, rows: Batch) -> None:
        """Puts rows into slots, (n,) int64, ascending; those beyond the last follow it without a hole."""
        grown = {name: column for name, column in template(rows).items() if wider(column, self.template[name])}
        if grown or self._segment.length + len(slots) > self._limit:
            self._rewrite({**self.template, **move(grown, _CPU)})
        self._positions[slots] = self._segment.append(rows)
        self.count = max(self.count, int(slots[-1]) + 1)

    def gather(self, slots: Tensor, *names: str) -> Batch:
        """A copy of the rows in these slots, (n,) int64; of all columns, or of those named."""
        return self._segment.gather(self._positions[slots.cpu()], *names)

    def widen(self, name: str, like: Tensor) -> None:
        """Gives the vectors of floats in a column NaN at the end, until they are as long as those in `like`."""
        self._rewrite({**self.template, name: like.cpu()})

    def shrink(self, count: int, sources: Tensor, targets: Tensor) -> None:
        """Moves rows to other slots and drops all but the first `count`; the next state drops their bytes."""
        self._positions[targets] = self._positions[sources]
        self._forgot |= count < self.count
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        """Where the rows lie, once they are durable there; the rows themselves stay in the files."""
        if self._forgot:
            self._rewrite(self.template)
            self._forgot = False
        self._segment.sync()
        self._referred.append(self._generation)
        self._sweep()
        return {
            "run": self._run,
            "generation": self._generation,
            "referred": list(self._referred),
            "length": self._segment.length,
            "checksums": dict(self._segment.checksums),
            "positions": self._positions[: self.count].clone(),
            "template": dict(self.template),
        }

    def _rewrite(self, columns: Batch) -> None:
        """Moves the rows in use to a new segment, in the order in which they lie in the old one."""
        segment = Segment(self._folder, self._generation + 1, columns, self._limit)
        positions, slots = self._positions[: self.count].sort()
        step = max(1, _BLOCK // row_bytes(columns))
        for start in range(0, self.count, step):
            segment.append(self._segment.gather(positions[start : start + step]))
        self._positions[slots] = torch.arange(self.count)
        self.template, self._segment = columns, segment
        self._generation += 1
        self._sweep()

    def _sweep(self) -> None:
        """Deletes the segments that neither this store nor one of its last states refers to."""
        for path in self._folder.glob("*.rows"):
            if int(path.name.partition("-")[0]) not in {self._generation, *self._referred}:
                path.unlink()


class Segment:
    """Rows appended to one file per column, and read through a map of it.

    The maps span `limit` rows from the beginning. The files are sparse: what is not yet appended takes no
    space.
    """

    def __init__(
        self,
        folder: Path,
        generation: int,
        columns: Batch,
        limit: int,
        *,
        length: int = 0,
        checksums: dict[str, int] | None = None,
    ) -> None:
        self.length = length
        self.checksums = checksums.copy() if checksums else dict.fromkeys(columns, 0)
        self._paths = {name: folder / f"{_number(generation)}-{quote(name, safe='')}.rows" for name in columns}
        for name, path in self._paths.items():
            if length:
                _verify(path, length * row_bytes({name: columns[name]}), self.checksums[name])
            else:
                path.unlink(missing_ok=True)  # what a run left that crashed before a state referred to it
                path.touch(mode=0o600)
        limit = max(limit, length)  # what was written under a higher limit is still read
        self._maps = {name: _map(path, tensor(columns, name), limit) for name, path in self._paths.items()}
        self._durable = False

    def append(self, rows: Batch) -> Tensor:
        """Writes rows behind the last one; returns their positions, (n,) int64."""
        start = self.length
        for name, held in self._maps.items():
            column = as_bytes(widened(tensor(rows, name).cpu(), held).contiguous())
            content = memoryview(column.numpy().data).cast("B")
            # Through the file and not the map: a full disk is then an error, and not a signal that kills.
            with self._paths[name].open("r+b") as file:
                file.seek(start * column.shape[1])
                file.write(content)
            self.checksums[name] = zlib.crc32(content, self.checksums[name])
            self.length = start + len(column)
        self._durable = False
        return torch.arange(start, self.length)

    def gather(self, positions: Tensor, *names: str) -> Batch:
        """A copy of the rows at these positions, (n,) int64; of all columns, or of those named."""
        return {name: self._maps[name].index_select(0, positions) for name in names or self._maps}

    def sync(self) -> None:
        """Makes durable what was appended, and the names of the files."""
        if self._durable:
            return
        for path in self._paths.values():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            folder = path.parent
            for place in (folder, folder.parent, folder.parent.parent):
                sync(place)
        self._durable = True


def _map(path: Path, like: Tensor, limit: int) -> Tensor:
    shape = torch.Size((limit, *like.shape[1:]))
    return torch.from_file(str(path), shared=True, size=shape.numel(), dtype=like.dtype).view(shape)


def _verify(path: Path, size: int, checksum: int) -> None:
    """Raises unless the first `size` bytes of the file have this CRC-32."""
    if not path.exists():
        raise FileNotFoundError(f"the state refers to rows in {path}, which is gone; restore it, or load another state")
    if (found := path.stat().st_size) < size:
        raise ValueError(f"{path} has {found} bytes, but the state refers to {size}; restore it, or load another state")
    seen, left = 0, size
    with path.open("rb") as file:
        while left:
            block = file.read(min(left, _BLOCK))
            seen, left = zlib.crc32(block, seen), left - len(block)
    if seen != checksum:
        raise ValueError(
            f"the first {size} bytes of {path} are not those that the state refers to: the file is damaged, "
            "or another run went on from an older state; restore it, or load another state"
        )


def _claim(folder: Path) -> int:
    """The number of a new folder in `folder`; if two ask at once, each has its own."""
    folder.mkdir(parents=True, exist_ok=True)
    run = len(list(folder.iterdir()))
    while True:
        try:
            (folder / _number(run)).mkdir(mode=0o700)
        except FileExistsError:
            run += 1
        else:
            return run


def _number(number: int) -> str:
    return f"{number:06d}"
