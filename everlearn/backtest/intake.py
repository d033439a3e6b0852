"""What is read of a log, in the order in which it stands there: rows, and labels that came by themselves."""

import math
import sys
from array import array
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from everlearn.backtest.shelf import Places, Shelf
from everlearn.data.tables import nearest
from everlearn.streams.feed import Label, Record
from everlearn.streams.layout import seconds


class Intake:
    """Takes records one by one. What rows say is put on a shelf; the rest is a few numbers a row.

    `name` stands for the log in errors; `column` is that of the time at which each label was known.
    """

    def __init__(self, name: str, column: str | None = None) -> None:
        self.name, self.column = name, column
        self.rows = Shelf()
        self.labels: list[Label | None] = []
        self.times = array("d")
        """Of rows; NaN where there is none."""
        self.known: list[float] = []
        """When the label of each row was known, where a column says so."""
        self.told: list[Record] = []
        """Labels that are records of their own."""
        self.left_out: dict[str, int] = {}
        """Records that are no rows of the log, by reason."""
        self.events: Places = np.empty(0, dtype=np.int64)
        """Row i as i, and label k of those that were told as -1 - k."""
        self._events, self._ids = array("q"), array("q")
        self._unread, self._problem = 0, ""
        self._column_is_there = False

    def take(self, record: Record) -> None:
        """The next one."""
        if record.problem:
            self._unread, self._problem = self._unread + 1, self._problem or record.problem
        elif record.is_label:
            self._events.append(-1 - len(self.told))
            self.told.append(record)
        else:
            if self.column is not None:
                record = self._without(record, self.column)
            self._events.append(len(self.rows))
            self.rows.append(record)
            self.labels.append(sys.intern(record.label) if isinstance(record.label, str) else record.label)
            self.times.append(math.nan if record.time is None else record.time)
            self._ids.append(hash(record.id))

    def _without(self, record: Record, column: str) -> Record:
        self._column_is_there |= column in record.fields
        self.known.append(_moment(self.name, len(self.rows), column, record.fields.get(column)))
        return replace(record, fields={key: value for key, value in record.fields.items() if key != column})

    @property
    def complaint(self) -> str:
        """What was wrong with the first record that could not be read."""
        return f"; {self._unread:,} could not be read, the first: {self._problem}" if self._unread else ""

    @property
    def timed(self) -> bool:
        """Whether rows have times: all of them, or none."""
        return not math.isnan(self.times[0])

    def check(self) -> None:
        """All has been taken; a ValueError where it makes no log."""
        if not self.rows:
            raise ValueError(f"{self.name} has no rows that can be read{self.complaint}")
        if self.column is not None and not self._column_is_there:
            names = nearest(self.column, list(self.rows[0].fields))
            raise ValueError(f"{self.name} has no column {self.column!r} for --label-time: {names}")
        without = np.flatnonzero(np.isnan(self.times))
        if 0 < len(without) < len(self.rows):
            raise ValueError(
                f"{self.name}: row {without[0] + 1} has no time, as have {len(without) - 1:,} others, but the rest "
                "have one; fill them in, or leave out --time and go by the order of the rows"
            )
        if self._unread:
            self.left_out[f"could not be read, the first: {self._problem}"] = self._unread
        self.events = np.array(self._events, dtype=np.int64)
        self._once_each()

    def _once_each(self) -> None:
        """A row that stands there again is left out; if it has the label that the first one lacks, that is told."""
        hashes = np.array(self._ids, dtype=np.int64)
        places = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(hashes[places][1:] == hashes[places][:-1])
        if not len(alike):
            return
        where = np.flatnonzero(self.events >= 0)
        gone = []
        for first, second in places[alike[:, None] + (0, 1)].tolist():
            one, other = self.rows[first], self.rows[second]
            if one.id != other.id:
                continue
            label = self.labels[second]
            lacking = self.labels[first] is None and label is not None
            if one.fields != other.fields or (one.time != other.time and not lacking):
                raise ValueError(
                    f"{self.name}: rows {first + 1:,} and {second + 1:,} have the same id, {one.id!r}, and differ in "
                    "more than the label; an id names one row. Name its column by --id, or give another name to the "
                    "column that is taken for it"
                )
            if not lacking:
                gone.append(where[second])
            else:
                self.events[where[second]] = -1 - len(self.told)
                self.told.append(Record(other.id, {}, label, other.time))
        if gone:
            self.events = np.delete(self.events, gone)
            self.left_out["stands there again, with the same id"] = len(gone)

    def order(self, *, sort: bool) -> Places:
        """The events in the order of time; a label without a time stays behind what is before it."""
        events, rows = self.events, np.array(self.times)
        told = np.array([math.nan if each.time is None else each.time for each in self.told])
        times = np.concatenate([rows, told[::-1]])[events]  # label k is -1 - k, counted from the end
        last = np.maximum.accumulate(np.where(np.isnan(times), -1, np.arange(len(times))))
        times = np.where(last < 0, -math.inf, times[last])
        back = np.flatnonzero(times[1:] < times[:-1]).tolist()
        if back and not sort:
            before, after = (f"{self._id(events[i])!r} ({said(times[i])})" for i in (back[0], back[0] + 1))
            raise ValueError(
                f"{self.name} is not in the order of time: {after} comes after {before}. Give --sort to put it in "
                "order, or leave out --time to take the order as it is"
            )
        ordered: Places = events[np.argsort(times, kind="stable")]
        return ordered

    def _id(self, event: int) -> str:
        return self.rows[event].id if event >= 0 else self.told[-1 - event].id

    def settled(self, order: Places) -> tuple[list[Label | None], list[int]]:
        """The label of each row and the row before which it is known, where labels are records of their own."""
        count = int((order >= 0).sum())
        place: dict[str, int] = {}
        labels: list[Label | None] = []
        arrivals: list[int] = []
        early: dict[str, Label | None] = {}
        second = 0
        for event in order.tolist():
            name = self._id(event)
            if event >= 0:
                place[name] = len(labels)
                value = self.labels[event]
                labels.append(early.pop(name, None) if value is None else value)
                arrivals.append(count if labels[-1] is None else len(labels))
            elif name not in place:
                early[name] = self.told[-1 - event].label
            elif labels[place[name]] is None:
                labels[place[name]], arrivals[place[name]] = self.told[-1 - event].label, len(labels)
            else:
                second += 1
        if second:
            self.left_out["a second label of the same row: the first is taken"] = second
        if early:
            self.left_out["a label of a row that is not in the log"] = len(early)
        return labels, arrivals


def _moment(name: str, row: int, column: str, value: Any) -> float:
    """A time as seconds; never, where there is none."""
    if value is None or value == "":
        return math.inf
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(f"{name}: {column} of row {row + 1}: {error}") from None


def said(time: float) -> str:
    """A time for people.

    >>> said(1767225600.0)
    '2026-01-01 00:00:00'
    """
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    except (OverflowError, ValueError, OSError):
        return str(time)
