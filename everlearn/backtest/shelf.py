"""Records on disk, so that a log may be larger than memory: what is held is where each of them lies."""

import json
from array import array
from collections.abc import Sequence
from tempfile import TemporaryFile
from typing import overload
from weakref import finalize

import numpy as np

from everlearn.streams.feed import Record

Places = np.ndarray[tuple[int], np.dtype[np.int64]]

_CODE = json.JSONEncoder(separators=(",", ":")).encode


class Shelf(Sequence[Record]):
    """Rows without their labels, in a file that vanishes with it, in the folder for such files (`TMPDIR`).

    >>> shelf = Shelf()
    >>> shelf.append(Record("a", {"x": 1.0}, "yes", 3.0)); shelf.append(Record("b", {"day": "tue"}))
    >>> shelf.arrange(np.array([1, 0]))
    >>> shelf[1]
    Record(id='a', fields={'x': 1.0}, label=None, time=3.0, position=None, problem='')
    """

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 (it is open as long as this lives)
        finalize(self, self._file.close)
        self._end, self._behind = 0, True
        """Where the next record goes, and whether the file stands there: to seek is to flush."""
        self._starts, self._sizes = array("q"), array("q")
        self._names: dict[tuple[str, ...], int] = {}
        """Rows of one table have the same names, so those are not written again with each."""
        self._known: list[tuple[str, ...]] = []

    def append(self, record: Record) -> None:
        """Puts a record behind the others; its fields are what JSON holds."""
        names = tuple(record.fields)
        if names not in self._names:
            self._names[names] = len(self._known)
            self._known.append(names)
        line = _CODE([self._names[names], record.id, record.time, *record.fields.values()]).encode()
        if not self._behind:
            self._file.seek(self._end)
            self._behind = True
        self._file.write(line)
        self._starts.append(self._end)
        self._sizes.append(len(line))
        self._end += len(line)

    def arrange(self, order: Places) -> None:
        """Makes record `order[i]` the one that is record i from now on; those that it leaves out are gone."""
        self._starts, self._sizes = (array("q", np.asarray(each)[order]) for each in (self._starts, self._sizes))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        self._behind = False
        self._file.seek(self._starts[place])
        names, name, time, *values = json.loads(self._file.read(self._sizes[place]))
        return Record(name, dict(zip(self._known[names], values, strict=True)), None, time)
