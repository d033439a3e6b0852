"""A folder that fills: its tables one after another, in the order of their names."""

import time
import zlib
from pathlib import Path

from everlearn.streams.feed import Feed, Position, Record
from everlearn.streams.layout import Layout
from everlearn.streams.lost import LostError
from everlearn.streams.table_feed import POLL, table_feed, table_kind


class FolderFeed:
    """The rows of all tables in a folder. A file is complete when it has its name: whoever writes it renames it then.

    What is no table by its name (`rows.csv.part`, `README.md`), or begins with a dot or an underscore, is left alone.
    The order is that of the names as texts, so they must sort as they arrive: by a date, or by numbers with zeros in
    front. Times of files would not do: copying changes them, and two may be equal. A file that turns up before the
    one that is being read, or a file that grows while it is read, is a LostError: its rows would be left out.

    A position is a file, the position in it, and the number and a checksum of the names before it. Files before the
    one that is being read may be deleted or moved away. With `follow`, the feed waits for more files, and never ends.
    """

    trouble = ""
    """None: a file is there, or it is an error."""

    def __init__(self, path: Path, layout: Layout | None = None, *, follow: bool = False) -> None:
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is no folder")
        self.path, self.layout, self.follow = path, layout or Layout(), follow
        self._feed: Feed | None = None
        self._read: set[str] = set()
        """The names of the files that were read, or lay before those."""
        self._start()

    @property
    def name(self) -> str:
        """The path, with a slash."""
        return f"{self.path}/"

    @property
    def ended(self) -> bool:
        """Whether the last row of the last file was read, and no more files are waited for."""
        return self._over and not self.follow

    def read(self, most: int, wait: float = 0.0) -> list[Record]:
        """The next rows; those of two files do not come together."""
        until = time.monotonic() + wait
        while True:
            while self._feed is not None or self._next():
                assert self._feed is not None  # noqa: S101 (the next one was opened)
                records = self._feed.read(most)
                if records:
                    return [self._placed(record) for record in records]
                self._leave()
            self._over = True
            left = until - time.monotonic()
            if self.ended or left <= 0:
                return []
            time.sleep(min(POLL, left))

    def seek(self, position: Position) -> None:
        """Goes on behind a record. Raises a LostError if its file is another, or files came before it."""
        self.close()
        self._start()
        if position is None:
            return
        try:
            file, count, check = str(position["file"]), int(position["files"]), int(position["names"])
            inside = position["at"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{self.name}: {position!r} is no position in a folder") from None
        names = self._names()
        if file not in names:
            raise LostError(
                f"{self.name} has no {file} any more, of which row {inside.get('row')} was the last that was read"
            )
        before = names[: names.index(file)]
        if len(before) > count or (len(before) == count and _checksum(before) != check):
            raise LostError(
                f"{self.name}: {len(before)} files come before {file}, and {count} did when it was read; {_MEND}"
            )
        self._read = set(before)
        self._open(file, count, check)
        assert self._feed is not None  # noqa: S101 (it was opened)
        self._feed.seek(inside)

    def acknowledge(self, position: Position) -> None:
        """Nothing: the files stay."""

    def close(self) -> None:
        """Closes the file that is being read."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _start(self) -> None:
        self._feed = None
        self._file = ""
        self._size = 0
        self._read = set()
        self._count, self._check = 0, 0
        self._over = False

    def _names(self) -> list[str]:
        return sorted(
            each.name
            for each in self.path.iterdir()
            if not each.name.startswith((".", "_")) and table_kind(each) and each.is_file()
        )

    def _next(self) -> bool:
        """Opens the next file; False if there is none (yet)."""
        names = self._names()
        late = [name for name in names if name <= self._file and name not in self._read]
        if late:
            raise LostError(f"{self.name}{late[0]} turned up after {self._file} was read; {_MEND}")
        later = [name for name in names if name > self._file]
        if not later:
            return False
        self._open(later[0], self._count + bool(self._file), self._check)
        return True

    def _open(self, name: str, count: int, check: int) -> None:
        path = self.path / name
        if self._file:
            check = zlib.crc32(f"{self._file}/".encode(), check)
        self._size = path.stat().st_size
        self._feed = table_feed(path, self.layout)
        self._file, self._count, self._check = name, count, check

    def _leave(self) -> None:
        """The file was read to its end."""
        path = self.path / self._file
        if path.exists() and path.stat().st_size != self._size:
            raise LostError(
                f"{path} changed while it was read; write files elsewhere, and rename them when they are complete"
            )
        self.close()
        self._read.add(self._file)

    def _placed(self, record: Record) -> Record:
        position = {"file": self._file, "at": record.position, "files": self._count, "names": self._check}
        return Record(record.id, record.fields, record.label, record.time, position, record.problem)


_MEND = "names must sort in the order in which files come (rename it, so that it is the last)"


def _checksum(names: list[str]) -> int:
    return zlib.crc32("".join(f"{name}/" for name in names).encode())
