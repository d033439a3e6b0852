"""Rows that cannot be read or learned: kept in a file with the reason, counted, and too many of them are an error."""

from pathlib import Path
from typing import Any

from everlearn.online.lines import Lines
from everlearn.streams.feed import Record

_FEW = 1000
"""Records up to which a share is taken of this many: the first bad row of a stream is no 100 %."""


class QuarantineError(ValueError):
    """More bad rows than a stream may have: somebody should look at where they come from."""


class Quarantine:
    """The bad rows of a run, in `path`, one JSON object a line: position, id, reason, fields and label.

    `limit` says how many there may be: a number ("100"), a share of all records ("1%"; of the first 1,000 it may be
    as many as of 1,000), or "" for any number. `check` raises a QuarantineError beyond it. A file that is cut back to
    what a checkpoint knows has each row once, whatever happened in between.
    """

    def __init__(self, path: Path, limit: str = "") -> None:
        self.limit, self.count = limit, 0
        self._most, self._share = _read(limit)
        self._lines = Lines(path)

    @property
    def path(self) -> Path:
        """The file; it is there from the first bad row on."""
        return self._lines.path

    def add(self, record: Record, reason: str) -> None:
        """Keeps a row that is not learned."""
        self.count += 1
        line = {"position": record.position, "id": record.id, "reason": reason, "fields": record.fields}
        self._lines.append(line | ({} if record.label is None else {"label": record.label}))

    def check(self, records: int) -> None:
        """Raises a QuarantineError if of so many records too many were bad."""
        most = self._most if self._share is None else self._share * max(records, _FEW)
        if most is not None and self.count > most:
            raise QuarantineError(
                f"{self.count:,} of {records:,} records could not be read or learned, and the limit is {self.limit}. "
                f"They are in {self.path}, each with its reason. Nothing else is lost: the state is saved"
            )

    def flush(self) -> None:
        """Lets others read what is there."""
        self._lines.flush()

    def sync(self) -> None:
        """What was flushed is on the disk."""
        self._lines.sync()

    def state_dict(self) -> dict[str, Any]:
        """How many there are, and how long the file is; to be saved after `sync`."""
        return {"count": self.count, "bytes": self._lines.flush()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved; lines that were written after that are cut off."""
        self._lines.cut(state["bytes"])
        self.count = state["count"]


def _read(limit: str) -> tuple[float | None, float | None]:
    """A limit as a number or as a share."""
    if not limit:
        return None, None
    share = limit.endswith("%")
    try:
        value = float(limit.removesuffix("%"))
    except ValueError:
        value = -1
    if not 0 <= value < float("inf") or (share and value > 100):
        raise ValueError(f"the limit of bad rows must be a number (100) or a share (1%), but is {limit!r}")
    return (None, value / 100) if share else (value, None)
