"""The latest rows whose labels are known: what a reaction to drift goes by."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from everlearn.online.packing import pack, unpack
from everlearn.streams.feed import Label, Record


class Latest:
    """Keeps the last `capacity` rows that were added, with their labels, in order.

    A row that is there and comes again, as one does whose label was corrected, takes the place that it has.

    >>> latest = Latest(2)
    >>> latest.add([Record(str(i), {"x": i}) for i in range(5)], list("abcde"))
    >>> latest.number, [record.id for record in latest.last(9)[0]], latest.last(1)[1]
    (5, ['3', '4'], ['e'])
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.number = 0
        """The rows that were ever added."""
        self._rows: deque[tuple[Record, Label]] = deque()
        self._where: dict[str, int] = {}
        """Which of all rows those here are, by id."""

    def add(self, records: Sequence[Record], labels: Sequence[Label]) -> None:
        """Adds rows, the latest last."""
        if len(records) != len(labels):
            raise ValueError(f"each row has one label, but {len(records)} rows came with {len(labels)}")
        for row in zip(records, labels, strict=True):
            place = self._where.get(row[0].id)
            if place is not None:
                self._rows[place - self.number + len(self._rows)] = row
                continue
            self.number += 1
            if self.capacity:
                self._append(row)

    def _append(self, row: tuple[Record, Label]) -> None:
        self._rows.append(row)
        self._where[row[0].id] = self.number - 1
        if len(self._rows) > self.capacity:
            self._where.pop(self._rows.popleft()[0].id, None)

    def last(self, count: int) -> tuple[list[Record], list[Label]]:
        """The last `count` rows, or as many as there are, the latest last."""
        rows = list(islice(self._rows, max(0, len(self._rows) - count), None))
        return [record for record, _ in rows], [label for _, label in rows]

    def __getitem__(self, place: int) -> tuple[Record, Label]:
        return self._rows[place]

    def __len__(self) -> int:
        return len(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows; where they stood in their feed is not part of it."""
        rows = [[row.id, {k: _plain(v) for k, v in row.fields.items()}, row.time, label] for row, label in self._rows]
        return {"number": self.number, "rows": pack(rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` gave."""
        rows = ((Record(name, fields, time=time), label) for name, fields, time, label in unpack(state["rows"]))
        self.number, self._rows = state["number"], deque(rows)
        first = self.number - len(self._rows)
        self._where = {row.id: place for place, (row, _) in enumerate(self._rows, first)}


def _plain(value: Any) -> Any:
    """A vector as the list of its numbers, which are read as the same."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
