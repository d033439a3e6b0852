"""A Parquet file as a stream: row group by row group, and a few thousand rows of one at a time."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from everlearn.streams.feed import Position, Record
from everlearn.streams.layout import Layout, made, plain, problem
from everlearn.streams.lost import LostError

CHUNK = 4096


class ParquetFeed:
    """The rows of a Parquet file. Numbers become floats, and moments of time the seconds since 1970.

    A row has the id FILE:NUMBER if it brings none, counted from 1. A position is the row group, the row in it, and a
    checksum of the file's footer, which knows the size and place of all that is in the file.
    """

    follow = False
    """Such a file does not grow."""
    trouble = ""
    """None: a file is there, or it is an error."""

    def __init__(self, path: Path, layout: Layout | None = None) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional dependency
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise ImportError(f"reading {path} needs pyarrow: pip install 'everlearn[tables]'") from error
        self.path = path
        self._broken = (pa.ArrowException, OSError)
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no Parquet file: {error}") from error
        schema = self._file.schema_arrow
        self._columns = (layout or Layout()).over(schema.names, str(path))
        wanted = [*self._columns.places, self._columns.label, self._columns.id, self._columns.time]
        self._wanted = [schema.names[place] for place in wanted if place is not None]
        ids = {self._columns.id}
        self._cells: dict[str, Callable[[Any], list[Any]]] = {}
        for name in self._wanted:
            reader = _reader(pa, schema.field(name).type, as_it_is=schema.names.index(name) in ids)
            if reader is None:
                raise ValueError(
                    f"{path}: the column {name!r} holds {schema.field(name).type}, which is no number, truth value or "
                    "text; name the others, as in features=[...]"
                )
            self._cells[name] = reader
        self._check = _footer(path)
        self._go(0, 0, 0)

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def ended(self) -> bool:
        """Whether the last row was read."""
        return self._over

    def read(self, most: int, wait: float = 0.0) -> list[Record]:  # noqa: ARG002 (a file is there, or not)
        """The next rows. Raises a ValueError if the file is damaged."""
        records: list[Record] = []
        while len(records) < most:
            cells = next(self._rows, None)
            if cells is None:
                if not self._next_rows():
                    self._over = True
                    break
                continue
            records.append(self._record(cells))
        return records

    def seek(self, position: Position) -> None:
        """Goes on behind a row. Raises a LostError if it is of another file."""
        if position is None:
            self._go(0, 0, 0)
            return
        try:
            group, within, row, check = (int(position[name]) for name in ("group", "within", "row", "check"))
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{self.path}: {position!r} is no position in a Parquet file") from None
        if check != self._check:
            raise LostError(f"{self.path} is not the file that was read before: its footer is another")
        self._go(group, within + 1, row)

    def acknowledge(self, position: Position) -> None:
        """Nothing: the file stays."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _go(self, group: int, skip: int, row: int) -> None:
        """To a row of a group; `row` rows came before it in all."""
        self._group, self._within, self._row = group, skip - 1, row
        self._skip, self._over = skip, False
        self._batches: Iterator[Any] | None = None
        self._rows: Iterator[tuple[Any, ...]] = iter(())

    def _next_rows(self) -> bool:
        """The rows of the next batch; False if there are no more."""
        while True:
            if self._batches is None:
                if self._group >= self._file.num_row_groups:
                    return False
                self._batches = self._file.iter_batches(CHUNK, [self._group], self._wanted)
            try:
                batch = next(self._batches, None)
                if batch is None:
                    self._batches, self._group, self._within, self._skip = None, self._group + 1, -1, 0
                    continue
                skipped = min(self._skip, batch.num_rows)
                self._skip -= skipped
                batch = batch.slice(skipped)
                if batch.num_rows:
                    lists = [self._cells[name](batch.column(name)) for name in self._wanted]
                    self._rows = zip(*lists, strict=True) if lists else iter([()] * batch.num_rows)
                    return True
            except self._broken as error:
                raise ValueError(f"{self.path} cannot be read: {error}") from error

    def _record(self, cells: tuple[Any, ...]) -> Record:
        self._within += 1
        self._row += 1
        position = {"group": self._group, "within": self._within, "row": self._row, "check": self._check}
        columns, default = self._columns, f"{self.path.name}:{self._row}"
        rest = iter(cells[len(columns.names) :])
        label, row_id, time = (
            None if place is None else next(rest) for place in (columns.label, columns.id, columns.time)
        )
        try:
            named = zip(columns.names, cells, strict=False)  # the rest is no field
            fields = {name: cell for name, cell in named if cell is not None and cell != ""}
            return made(fields, plain(label, "label"), row_id, time, default, position, columns.task)
        except ValueError as error:
            return problem(error, position, f"{self.path}, row {self._row}", default)


def _reader(pa: Any, kind: Any, *, as_it_is: bool) -> Callable[[Any], list[Any]] | None:
    """From a column to its values; None if a field cannot hold them. `as_it_is`: 1 does not become 1.0."""
    types = pa.types
    if types.is_dictionary(kind):
        inner = _reader(pa, kind.value_type, as_it_is=as_it_is)
        return inner and (lambda column: inner(column.cast(kind.value_type)))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind) or types.is_null(kind):
        return lambda column: list(column.to_pylist())
    if types.is_integer(kind) and as_it_is:
        return lambda column: list(column.to_pylist())
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return lambda column: list(column.cast(pa.float64(), safe=False).to_pylist())
    if types.is_date(kind) or types.is_timestamp(kind):
        moment = pa.timestamp("us")
        return lambda column: [
            None if each is None else each / 1e6
            for each in column.cast(moment, safe=False).cast(pa.int64()).to_pylist()
        ]
    return None


def _footer(path: Path) -> int:
    """The checksum of the footer: its size stands before the last four bytes."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, 2)
        return zlib.crc32(file.read())
