"""A log: what was asked in the order of time, what each label turned out to be, and when that was known."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from everlearn.data.tables import nearest
from everlearn.online.span import Span
from everlearn.streams.feed import Feed, Label, Record
from everlearn.streams.layout import seconds
from everlearn.streams.opening import open_feed

Delay = Span | str | None
"""How late labels are: a span, or the name of the column with the time at which each was known."""

_AT_ONCE = Span(0, timed=False)


@dataclass(frozen=True)
class Log:
    """Rows in the order of time. `records` hold no labels: those stand apart, as they were known only later."""

    name: str
    records: tuple[Record, ...]
    labels: tuple[Label | None, ...]
    """What each label turned out to be; None where nobody ever knew."""
    arrivals: tuple[int, ...]
    """Row i's label is known when row `arrivals[i]` is asked, and not before; `len(records)`: not in this log."""
    clock: tuple[float, ...]
    """When each row was asked, in seconds; without times, its number."""
    timed: bool
    late: str
    """How late labels are, in words."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Records that are no rows of the log, by reason."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labelled(self) -> int:
        """How many rows have a label."""
        return sum(label is not None for label in self.labels)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers to be predicted."""
        return any(isinstance(label, float) for label in self.labels)

    def fingerprint(self) -> str:
        """A digest of all that a policy could ever see."""
        digest = sha256()
        for record, label, arrival, clock in zip(self.records, self.labels, self.arrivals, self.clock, strict=True):
            digest.update(repr((record.id, sorted(record.fields.items()), label, arrival, clock)).encode())
        return digest.hexdigest()[:16]

    def warm_up(self, size: str) -> int:
        """How many rows `10%` or `1000` are; with a ValueError where no model can be trained on what is known then."""
        rows = self._share(size)
        if not 0 < rows < len(self):
            raise ValueError(
                f"a warm-up of {size} is {rows:,} of {len(self):,} rows; it must leave rows before and after it"
            )
        known = [self.labels[i] for i in range(rows) if self.arrivals[i] <= rows and self.labels[i] is not None]
        if not known:
            raise ValueError(
                f"no label had arrived by the end of the warm-up of {rows:,} rows, as labels are {self.late}; take a "
                "longer --warmup, or see that the delay is right"
            )
        if not self.regression and len(set(known)) < 2:
            raise ValueError(
                f"the warm-up of {rows:,} rows knows one class alone, {known[0]!r}, and from one class nothing can be "
                "learned; take a longer --warmup"
            )
        if not any(rows < arrival < len(self) for arrival in self.arrivals):
            raise ValueError(
                f"after the warm-up of {rows:,} rows no label ever arrives within the log of {len(self):,}, as labels "
                f"are {self.late}; so no policy could differ from never. Take a shorter delay, or a longer log"
            )
        return rows

    def _share(self, size: str) -> int:
        text = str(size).strip()
        try:
            return int(len(self) * float(text[:-1]) / 100) if text.endswith("%") else int(text)
        except ValueError:
            raise ValueError(f"--warmup is a share such as 10%, or a number of rows, but is {size!r}") from None


def read_log(
    source: str,
    *,
    label: str | None = None,
    delay: Delay = None,
    regression: bool = False,
    sort: bool = False,
    **options: Any,
) -> Log:
    """The log in a table or a stream, as `open_feed` takes it with its `options` (`time`, `id`, `features`).

    `delay` is how late labels are: a `Span`, or the column with the time at which each was known. In a log where
    labels are records of their own, each is as late as it stands there.
    """
    if isinstance(delay, str) and options.get("features"):
        options["features"] = [*options["features"], delay]
    feed = open_feed(source, label=label, task="regression" if regression else "classification", **options)
    try:
        records = list(_all(feed))
    finally:
        feed.close()
    return log_of(feed.name, records, delay=delay, regression=regression, sort=sort)


def log_of(
    name: str, records: Sequence[Record], *, delay: Delay = None, regression: bool = False, sort: bool = False
) -> Log:
    """The log of these records; `name` stands for it in errors."""
    left_out = Counter(record.problem for record in records if record.problem)
    good = [record for record in records if not record.problem]
    timed = _timed(name, [record for record in good if not record.is_label])
    if timed:
        good = _ordered(name, good, sort=sort)
    rows = [record for record in good if not record.is_label]
    if not rows:
        why = f"; the first problem: {next(iter(left_out))}" if left_out else ""
        raise ValueError(f"{name} has no rows that can be read{why}")
    clock = [_time(row) for row in rows] if timed else [float(i) for i in range(len(rows))]
    if any(record.is_label for record in good):
        if delay is not None:
            raise ValueError(
                f"{name} has labels as records of their own, each at its time; leave out --label-delay and --label-time"
            )
        labels, arrivals, strange = _settled(good, len(rows))
        left_out.update(strange)
        late = "as late as their records in the log"
    else:
        labels = [row.label for row in rows]
        arrivals, rows, late = _late(name, rows, clock, _AT_ONCE if delay is None else delay, timed=timed)
    named = [_label(name, i, value, regression=regression) for i, value in enumerate(labels)]
    if all(value is None for value in named):
        raise ValueError(
            f"{name} has no labels in any of {len(rows):,} rows, and a backtest needs to know what was right; name "
            "their column by --label"
        )
    asked = tuple(replace(row, label=None, position=None) for row in rows)
    ends = tuple(
        len(rows) if value is None else min(place, len(rows)) for place, value in zip(arrivals, named, strict=True)
    )
    return Log(name, asked, tuple(named), ends, tuple(clock), timed, late, dict(left_out))


def _all(feed: Feed) -> Iterator[Record]:
    """All that is there now: what is yet to come belongs to no log."""
    while chunk := feed.read(4096):
        yield from chunk


def _timed(name: str, rows: Sequence[Record]) -> bool:
    """Whether rows have times: all, or none."""
    without = [i for i, row in enumerate(rows) if row.time is None]
    if without and len(without) < len(rows):
        raise ValueError(
            f"{name}: row {without[0] + 1} has no time, as have {len(without) - 1:,} others, but the rest have one; "
            "fill them in, or leave out --time and go by the order of the rows"
        )
    return not without


def _ordered(name: str, records: Sequence[Record], *, sort: bool) -> list[Record]:
    """The records in the order of time; what has no time (a label by itself) stays behind what is before it."""
    times: list[float] = []
    for record in records:
        times.append(record.time if record.time is not None else (times[-1] if times else -math.inf))
    back = next((i for i in range(1, len(times)) if times[i] < times[i - 1]), None)
    if back is None:
        return list(records)
    if not sort:
        raise ValueError(
            f"{name} is not in the order of time: {records[back].id!r} ({_said(times[back])}) comes after "
            f"{records[back - 1].id!r} ({_said(times[back - 1])}). Give --sort to put it in order, or leave out --time "
            "to take the order as it is"
        )
    return [record for _, _, record in sorted(zip(times, range(len(times)), records, strict=True))]


def _settled(records: Sequence[Record], count: int) -> tuple[list[Label | None], list[int], Counter[str]]:
    """The label of each row and the row before which it is known, where labels are records of their own."""
    place: dict[str, int] = {}
    labels: list[Label | None] = []
    arrivals: list[int] = []
    strange: Counter[str] = Counter()
    early: dict[str, Label] = {}
    for record in records:
        if not record.is_label:
            place[record.id] = len(labels)
            value = record.label if record.label is not None else early.pop(record.id, None)
            labels.append(value)
            arrivals.append(count if value is None else len(labels))
        elif record.id not in place:
            early[record.id] = record.label  # type: ignore[assignment]  # it is a label
        elif labels[place[record.id]] is None:
            labels[place[record.id]], arrivals[place[record.id]] = record.label, len(labels)
        else:
            strange["a second label of the same row: the first is taken"] += 1
    if early:
        strange["a label of a row that is not in the log"] = len(early)
    return labels, arrivals, strange


def _late(
    name: str, rows: list[Record], clock: Sequence[float], delay: Span | str, *, timed: bool
) -> tuple[list[int], list[Record], str]:
    """Before which row each label is known; the rows, without the column that says so; and the delay in words."""
    if isinstance(delay, Span) and not delay.timed:
        late = f"{delay} late" if delay.amount else "known at once"
        return [i + 1 + int(delay.amount) for i in range(len(rows))], rows, late
    if not timed:
        raise ValueError(f"{name} has no times, so a label cannot be late by {delay}; name their column by --time")
    if isinstance(delay, Span):
        return [_first(clock, i, time + delay.amount) for i, time in enumerate(clock)], rows, f"{delay} late"
    if all(delay not in row.fields for row in rows):
        raise ValueError(f"{name} has no column {delay!r} for --label-time: {nearest(delay, list(rows[0].fields))}")
    arrivals, bare = [], []
    for i, row in enumerate(rows):
        known = _moment(name, i, delay, row.fields.get(delay))
        if known < clock[i]:
            raise ValueError(
                f"{name}: the label of row {i + 1} was known ({delay} {_said(known)}) before the row happened "
                f"({_said(clock[i])}), so a policy would learn the future; see that --time and --label-time are right"
            )
        arrivals.append(_first(clock, i, known))
        bare.append(replace(row, fields={key: value for key, value in row.fields.items() if key != delay}))
    waits = sorted(clock[a] - clock[i] for i, a in enumerate(arrivals) if a < len(rows))
    middle = f", half of them within {Span(waits[len(waits) // 2], timed=True)}" if waits else ""
    return arrivals, bare, f"known at {delay}{middle}"


def _first(clock: Sequence[float], row: int, known: float) -> int:
    """The first row after `row` that is asked when `known` has passed."""
    return max(row + 1, bisect_left(clock, known))


def _moment(name: str, row: int, column: str, value: Any) -> float:
    """A time as seconds; never, where there is none."""
    if value is None or value == "":
        return math.inf
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(f"{name}: {column} of row {row + 1}: {error}") from None


def _label(name: str, row: int, value: Label | None, *, regression: bool) -> Label | None:
    """The name of a class, or a number."""
    if value is None or value == "":
        return None
    if not regression:
        return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: the label of row {row + 1} is {value!r}, but regression needs finite numbers")
    return number


def _time(record: Record) -> float:
    assert record.time is not None  # noqa: S101 (the log is timed)
    return record.time


def _said(time: float) -> str:
    """A time for people."""
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    except (OverflowError, ValueError, OSError):
        return str(time)
