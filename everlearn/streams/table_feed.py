"""A table as a stream: CSV, TSV and JSON lines, row by row, also while the file goes on growing."""

import csv
import gzip
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, cast
from zlib import crc32

from everlearn.streams.feed import Feed, Position, Record
from everlearn.streams.layout import Layout, from_json, problem
from everlearn.streams.lost import LostError
from everlearn.streams.parquet_feed import ParquetFeed

KINDS = ("csv", "tsv", "jsonl", "ndjson", "parquet")
POLL = 0.05
"""Seconds between two looks at a file that may have grown."""
BLOCK = 2**16
LONGEST = 2**24
"""Bytes of a line that is read as a row."""
BOM = b"\xef\xbb\xbf"


def table_kind(path: Path) -> str | None:
    """What a file is by its name: one of KINDS, also of what is compressed; None for any other.

    >>> table_kind(Path("a/rows.csv.gz")), table_kind(Path("rows.parquet")), table_kind(Path("rows.csv.part"))
    ('csv', 'parquet', None)
    """
    name = path.name.lower()
    kind = name.removesuffix(".gz").rpartition(".")[2]
    known = kind in KINDS and "." in name and not (kind == "parquet" and name.endswith(".gz"))
    return kind if known else None


def table_feed(path: Path, layout: Layout | None = None, *, follow: bool = False) -> Feed:
    """The rows of a .csv, .tsv, .jsonl or .ndjson file (each also as .gz), or of a .parquet file, in their order.

    With `follow`, the file goes on growing, and the feed never ends: see `TextFeed`.
    """
    kind = table_kind(path)
    if kind is None:
        raise ValueError(f"{path} is no table by its name; there are {', '.join(f'.{each}' for each in KINDS)}")
    if kind != "parquet":
        return TextFeed(path, layout, follow=follow)
    if follow:
        raise ValueError(f"{path}: a Parquet file does not grow; write more files, and follow their folder")
    return ParquetFeed(path, layout)


PLACE = ("row", "line", "start", "end", "check")
"""Of a position: how many rows and lines came, where the record's bytes begin and end, their checksum."""


class Long(bytes):
    """The beginning of a line that is longer than LONGEST, with the size and the checksum of all of it."""

    size: int
    check: int


def _joined(line: bytes, more: bytes, head: int) -> bytes:
    """The line with more of it; of what is too long, only what is known of it. `head`: where checksums begin."""
    if not isinstance(line, Long) and len(line) + len(more) <= LONGEST:
        return line + more
    whole = Long(line[:80])
    whole.size = (line.size if isinstance(line, Long) else len(line)) + len(more)
    whole.check = crc32(more, line.check if isinstance(line, Long) else crc32(line, head))
    return whole


class TextFeed:
    """The rows of a text file. What cannot be read is a record with a problem, and the next line goes on.

    So is a line that is longer than LONGEST: memory is bounded, whatever is read.

    A row has the id FILE:NUMBER if it brings none; numbers count from 1, without header and empty lines. A position is
    the place of its record's bytes, and a checksum of them and of the header: `seek` refuses another file.

    `follow`: the file goes on growing. Half a line is never read: the rest is waited for, and so is the end of a cell
    in quotes. A file that is replaced or cut off goes on if all that was read of it is still in its place, as far as
    the last record shows; otherwise it is a `LostError`. Logs that rotate are read as a folder of files.
    """

    trouble = ""
    """None: a file is there, or it is an error."""

    def __init__(self, path: Path, layout: Layout | None = None, *, follow: bool = False) -> None:
        kind = table_kind(path)
        if kind in (None, "parquet"):
            raise ValueError(f"{path} is no text by its name")
        self._zipped = path.name.lower().endswith(".gz")
        if follow and self._zipped:
            raise ValueError(f"{path}: what is compressed does not grow line by line; follow the folder of such files")
        self.path = path
        self.layout = layout or Layout()
        self.follow = follow
        self._short = path.name
        self._delimiter = {"csv": ",", "tsv": "\t"}.get(kind or "")
        self._file = self._open()
        self._head = 0
        """The checksum of the header."""
        self._begin()

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def ended(self) -> bool:
        """Whether the last row was read, and the file does not grow."""
        return self._dry and not self.follow

    def read(self, most: int, wait: float = 0.0) -> list[Record]:
        """The next rows. Raises a LostError if the file is not what it was, a ValueError if it is no table."""
        until = time.monotonic() + wait
        while True:
            if self._failed:
                raise ValueError(f"{self.path} cannot be read: {self._failed}") from self._failed
            if not (self.follow and self._dry and self._unchanged()):
                records = self._read(most)
                if records or self.ended:
                    return records
            left = until - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(POLL, left))

    def seek(self, position: Position) -> None:
        """Goes on behind a record. Raises a LostError if the file does not hold it there."""
        self._begin()
        if position is None:
            return
        try:
            at = {name: int(position[name]) for name in PLACE}
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{self.path}: {position!r} is no position in a text file") from None
        last = self._found(at) if self._headed() else None
        if last is None:
            raise LostError(
                f"{self.path} is not the file that was read before, or was cut off: its row {at['row']}, at byte "
                f"{at['start']}, is another or is gone"
            )
        self._at, self._lines, self._skipped, self._dry = at, at["line"], 0, False
        self._half, self._simple = b"", False
        self._back.clear()
        self._taken.clear()
        if last != b"\n":  # it was the last line, and may have got its end since, but not other text
            rest = self._file.readline(LONGEST)
            self._skipped = len(rest)
            if rest.strip():
                raise LostError(f"{self.path}: row {at['row']} was read at the end of the file, and went on growing")

    def acknowledge(self, position: Position) -> None:
        """Nothing: the file stays."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> IO[bytes]:
        if self._zipped:
            return cast("IO[bytes]", gzip.open(self.path))
        return self.path.open("rb")

    def _begin(self) -> None:
        self._file.seek(0)
        self._at = dict.fromkeys(PLACE, 0)
        """The position behind the last record."""
        self._lines = 0
        """How many came."""
        self._skipped = 0
        """Bytes that came since the last record, and are of none: header, empty lines."""
        self._head = 0
        self._make: Callable[[list[str], Position, str], Record] | None = None
        """What makes records of cells, once the header was read."""
        self._back: deque[bytes] = deque()
        """Lines to be read again: behind one that turned out to be wrong, or before what is waited for."""
        self._simple = False
        """Whether each of them is a record of its own, as there are no quotes."""
        self._half = b""
        self._taken: list[bytes] = []
        """The lines of the record that is being read."""
        self._dry = False
        """Whether all that is there was read."""
        self._failed: Exception | None = None
        self._written = 0
        """When the file was written last, in nanoseconds."""

    def _line(self) -> bytes:
        """The next whole line; b"" if there is none (yet)."""
        if not self._back:
            self._fill()
        self._dry = not self._back
        return b"" if self._dry else self._back.popleft()

    def _fill(self) -> None:
        """Some lines more, if there are some."""
        while not self._back:
            block = self._file.read(BLOCK)
            if not block:
                if self._half and not self.follow:
                    self._back.append(self._half)
                    self._half, self._simple = b"", False
                return
            *whole, half = block.split(b"\n")
            if not whole:
                self._half = _joined(self._half, half, self._head)
                continue
            first, self._half = _joined(self._half, whole[0] + b"\n", self._head), half
            self._back.append(first)
            self._back.extend([line + b"\n" for line in whole[1:]])
            self._simple = b'"' not in block and b'"' not in first and not isinstance(first, Long)

    def _texts(self) -> Iterator[str]:
        """The lines of the record that is being read, as long as it asks for more."""
        taken, next_line = self._taken, self._line
        while line := next_line():
            taken.append(line)
            if isinstance(line, Long):
                raise csv.Error(_too_long(line))
            if len(taken) == 1 and not self._lines:
                line = line.removeprefix(BOM)
            yield line.decode()

    def _headed(self) -> bool:
        """Whether the header was read, or there is none."""
        while self._delimiter is not None and self._make is None:
            names = self._record(csv.reader(self._texts(), delimiter=self._delimiter, strict=True))
            if names is None:
                return False
            if isinstance(names, Exception):
                raise ValueError(f"{self.path}: the header cannot be read: {names}") from names  # noqa: TRY004
            if names:
                self._make = self.layout.over([name.strip() for name in names], str(self.path)).reader()
                self._head = crc32(b"".join(self._taken))
            self._skip()
        return True

    def _record(self, cells: Iterator[list[str]]) -> list[str] | Exception | None:
        """The cells of the next record, [] of an empty line, what is wrong with it; None if there is none (yet).

        Its lines are in `_taken` then.
        """
        try:
            return next(cells)
        except StopIteration:
            return None
        except (csv.Error, UnicodeDecodeError) as error:
            if self.follow and self._dry:  # in the middle of a cell in quotes
                self._back.extend(self._taken)
                self._taken.clear()
                self._simple = False
                return None
            self._simple = False
            self._back.extendleft(reversed(self._taken[1:]))
            self._dry = self._dry and not self._back
            del self._taken[1:]
            return error

    def _skip(self) -> None:
        self._skipped += sum(map(len, self._taken))
        self._lines += len(self._taken)
        self._taken.clear()

    def _read(self, most: int) -> list[Record]:
        """The records that are there."""
        records: list[Record] = []
        try:
            if self._headed():
                add = self._add_json if self._delimiter is None else self._add_cells
                add(records, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._failed = error
            if not records:
                raise ValueError(f"{self.path} cannot be read: {error}") from error
        return records

    def _add_cells(self, records: list[Record], most: int) -> None:
        assert self._delimiter is not None  # noqa: S101 (it is a table of cells)
        rows = None
        while len(records) < most:
            if not self._back:
                self._fill()
            if self._simple and self._back:
                self._simple = self._add_simple(records, most)
                continue
            rows = rows or csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
            cells = self._record(rows)
            if cells is None:
                return
            if isinstance(cells, Exception):
                rows = None
            self._add(records, cells)

    def _add_simple(self, records: list[Record], most: int) -> bool:
        """Lines that are a record each; False if they are not, and were left."""
        lines = list(islice(self._back, most - len(records)))
        try:
            rows = list(csv.reader(map(bytes.decode, lines), delimiter=self._delimiter or ",", strict=True))
        except (csv.Error, UnicodeDecodeError):
            return False
        assert self._make is not None  # noqa: S101 (the header was read)
        make, at, head, number = self._make, self._at, self._head, self._lines
        row, end = at["row"], at["end"] + self._skipped
        for line, cells in zip(lines, rows, strict=True):  # as `_add` and `_advance`, for many
            self._back.popleft()
            number += 1
            start, end = end, end + len(line)
            if not cells:
                continue
            row += 1
            at = {"row": row, "line": number, "start": start, "end": end, "check": crc32(line, head)}
            try:
                records.append(make(cells, at, f"{self._short}:{row}"))
            except ValueError as error:
                records.append(problem(error, at, f"{self.path}, line {number}", f"{self._short}:{row}"))
        self._at, self._lines, self._skipped = at, number, end - at["end"]
        return True

    def _add(self, records: list[Record], cells: list[str] | Exception) -> None:
        """The record of some cells, or of what is wrong with them."""
        assert self._make is not None  # noqa: S101 (the header was read)
        if not cells:
            self._skip()
            return
        number, position, default = self._advance()
        try:
            if isinstance(cells, Exception):
                raise cells
            records.append(self._make(cells, position, default))
        except (ValueError, csv.Error) as error:
            records.append(problem(error, position, f"{self.path}, line {number}", default))

    def _add_json(self, records: list[Record], most: int) -> None:
        while len(records) < most:
            line = self._line()
            if not line:
                return
            self._taken.append(line)
            if not line.strip() and not isinstance(line, Long):
                self._skip()
                continue
            body = line if self._lines else line.removeprefix(BOM)
            number, position, default = self._advance()
            where = f"{self.path}, line {number}"
            if isinstance(line, Long):
                records.append(problem(ValueError(_too_long(line)), position, where, default))
            else:
                records.append(from_json(body, self.layout, position, where, default))

    def _advance(self) -> tuple[int, dict[str, int], str]:
        """Past the lines that were taken: the number of the first, the position behind them, and the row's own id."""
        taken, last, number = self._taken, self._at, self._lines + 1
        start = last["end"] + self._skipped
        record = taken[0] if len(taken) == 1 else b"".join(taken)
        if isinstance(record, Long):
            end, check = start + record.size, record.check
        else:
            end, check = start + len(record), crc32(record, self._head)
        self._lines += len(taken)
        self._skipped = 0
        taken.clear()
        row = last["row"] + 1
        self._at = at = {"row": row, "line": self._lines, "start": start, "end": end, "check": check}
        return number, at, f"{self._short}:{row}"

    def _unchanged(self) -> bool:
        """Whether nothing came since all was read. A file that is not what it was is opened anew, and sought."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return True  # it may be about to be replaced
        mine, known = os.fstat(self._file.fileno()), self._file.tell()
        same = (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)
        if same and now.st_size == known and now.st_mtime_ns == self._written:
            return True
        self._written = now.st_mtime_ns
        if not same:
            self._file.close()
            self._file = self._open()
        if not (same and now.st_size >= known and self._still_there(known)):
            self.seek(self._at if self._at["row"] else None)
        return False

    def _still_there(self, known: int) -> bool:
        """Whether the last record is where it was: a file may be cut off and grow again between two looks."""
        there = not self._at["row"] or self._found(self._at) is not None
        self._file.seek(known)
        return there

    def _found(self, at: dict[str, int]) -> bytes | None:
        """The last byte of the record at a position; None if it is another, or is gone."""
        check, left, block = self._head, at["end"] - at["start"], b""
        with suppress(EOFError, zlib.error, gzip.BadGzipFile):
            self._file.seek(at["start"])
            while left and (more := self._file.read(min(left, BLOCK))):
                check, left, block = crc32(more, check), left - len(more), more
        return block[-1:] if block and not left and check == at["check"] else None


def _too_long(line: Long) -> str:
    return f"it has {line.size:,} bytes, but a row has {LONGEST:,} at most"
