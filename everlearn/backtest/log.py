"""A log: what was asked in the order of time, what each label turned out to be, and when that was known."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from everlearn.backtest.intake import Intake, said
from everlearn.online.span import Span
from everlearn.streams.feed import Feed, Label, Record
from everlearn.streams.opening import open_feed

Delay = Span | str | None
"""How late labels are: a span, or the name of the column with the time at which each was known."""

_AT_ONCE = Span(0, timed=False)


@dataclass(frozen=True)
class Log:
    """Rows in the order of time. `records` hold no labels: those stand apart, as they were known only later."""

    name: str
    records: Sequence[Record]
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
        return log_of(feed.name, _all(feed), delay=delay, regression=regression, sort=sort)
    finally:
        feed.close()


def log_of(
    name: str, records: Iterable[Record], *, delay: Delay = None, regression: bool = False, sort: bool = False
) -> Log:
    """The log of these records; `name` stands for it in errors."""
    found = Intake(name, delay if isinstance(delay, str) else None)
    for record in records:
        found.take(record)
    found.check()
    if found.told and delay is not None:
        raise ValueError(
            f"{name} has labels as records of their own, each at its time; leave out --label-delay and --label-time"
        )
    timed = found.timed
    order = found.order(sort=sort) if timed else found.events
    rows = order[order >= 0]
    labels, count = [found.labels[i] for i in rows], len(rows)
    clock = [found.times[i] for i in rows] if timed else [float(i) for i in range(count)]
    if found.told:
        labels, arrivals = found.settled(order)
        late = "as late as their records in the log"
    else:
        known = [found.known[i] for i in rows] if found.known else []
        arrivals, late = _late(name, clock, known, _AT_ONCE if delay is None else delay, timed=timed)
    found.rows.arrange(rows)
    named = [_label(name, i, value, regression=regression) for i, value in enumerate(labels)]
    if all(value is None for value in named):
        raise ValueError(
            f"{name} has no labels in any of {count:,} rows, and a backtest needs to know what was right; name their "
            f"column by --label{found.complaint}"
        )
    ends = tuple(count if value is None else min(place, count) for place, value in zip(arrivals, named, strict=True))
    return Log(name, found.rows, tuple(named), ends, tuple(clock), timed, late, found.left_out)


def _all(feed: Feed) -> Iterator[Record]:
    """All that is there now: what is yet to come belongs to no log."""
    while chunk := feed.read(4096):
        yield from chunk


def _late(
    name: str, clock: Sequence[float], known: Sequence[float], delay: Span | str, *, timed: bool
) -> tuple[list[int], str]:
    """Before which row each label is known, and the delay in words."""
    count = len(clock)
    if isinstance(delay, Span) and not delay.timed:
        return [i + 1 + int(delay.amount) for i in range(count)], f"{delay} late" if delay.amount else "known at once"
    if not timed:
        raise ValueError(f"{name} has no times, so a label cannot be late by {delay}; name their column by --time")
    if isinstance(delay, Span):
        return [_first(clock, i, time + delay.amount) for i, time in enumerate(clock)], f"{delay} late"
    for i, moment in enumerate(known):
        if moment < clock[i]:
            raise ValueError(
                f"{name}: the label of row {i + 1} was known ({delay} {said(moment)}) before the row happened "
                f"({said(clock[i])}), so a policy would learn the future; see that --time and --label-time are right"
            )
    arrivals = [_first(clock, i, moment) for i, moment in enumerate(known)]
    waits = sorted(clock[a] - clock[i] for i, a in enumerate(arrivals) if a < count)
    middle = f", half of them within {Span(waits[len(waits) // 2], timed=True)}" if waits else ""
    return arrivals, f"known at {delay}{middle}"


def _first(clock: Sequence[float], row: int, known: float) -> int:
    """The first row after `row` that is asked when `known` has passed."""
    return max(row + 1, bisect_left(clock, known))


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
