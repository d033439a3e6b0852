"""A file of JSON lines that survives kill -9 with each line in it once."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Lines:
    """Appends to the file at `path`, which is there from the first line on.

    A checkpoint keeps the length that `flush` says, and is written once `sync` made so much durable. Whoever goes on
    from it cuts the file back (`cut`) and writes the rest again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._size = 0

    def append(self, line: Mapping[str, Any]) -> None:
        """One more line; what is not finite, or no plain value, is written as text."""
        self._waiting.append(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n")
        if len(self._waiting) >= 256:
            self.flush()

    def flush(self) -> int:
        """Gives all lines to the system, so that others can read them; the length of the file in bytes."""
        if self._waiting:
            with self.path.open("ab") as file:
                file.write("".join(self._waiting).encode(errors="replace"))
                self._size = file.tell()
            self._waiting.clear()
        return self._size

    def sync(self) -> None:
        """What was flushed is on the disk."""
        if self._size:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def cut(self, size: int) -> None:
        """Forgets what was written beyond `size` bytes, as `flush` said it."""
        self._waiting.clear()
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            raise ValueError(
                f"{self.path} has {there} bytes, but had {size} when the last checkpoint was taken; it was changed by "
                "somebody else. Bring it back, or begin a new run"
            )
        if there > size:
            os.truncate(self.path, size)
        self._size = size


def _plain(value: Any) -> Any:
    """The value as JSON holds it; what it cannot hold as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return value if value is None or isinstance(value, bool | int | str) else repr(value)
