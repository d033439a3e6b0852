"""Labels that come late: each finds the prediction that was served for its row, whenever and in whatever order."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from everlearn.online.engine import Prediction
from everlearn.online.packing import pack, plain_prediction, plain_record, prediction_of, record_of, unpack
from everlearn.online.seen import Seen
from everlearn.streams.feed import Label, Record


@dataclass(frozen=True, slots=True)
class Settled:
    """A row whose label is known, with the prediction that was served for it."""

    record: Record
    prediction: Prediction
    label: Label
    was: Label | None = None
    """The label that it had before; None where this is its first."""


@dataclass(slots=True)
class Counts:
    """What became of rows and labels."""

    served: int = 0
    """Rows that a prediction was served for."""
    labelled: int = 0
    """Rows that got a label."""
    early: int = 0
    """Labels that came before their row."""
    double: int = 0
    """Labels that said what was known, or something older."""
    corrected: int = 0
    """Labels that said something else than the one before."""
    late: int = 0
    """Labels of rows that had been given up, or settled too long ago to be corrected."""
    unknown: int = 0
    """Labels whose row never came."""
    expired: int = 0
    """Rows that were given up because their label took too long."""
    dropped: int = 0
    """Rows that were given up because too many were waiting."""


@dataclass(slots=True)
class _Row:
    record: Record
    prediction: Prediction
    since: float
    label: Label | None = None
    said: float | None = None


@dataclass(slots=True)
class _Early:
    label: Label
    since: float
    said: float | None


class Ledger:
    """Rows that were served wait for their labels; labels that came first wait for their rows.

    `expiry` says how long either waits, in the unit of `now`: seconds, or rows; None: for ever. At most `capacity`
    rows wait, and at most `capacity` labels; beyond that the oldest is given up, and counted. The last `corrections`
    rows that got a label can be corrected. Time never goes backwards here: an earlier `now` counts as the latest.

    A label may come twice, or corrected. Which of two is the right one is decided by the time at which they were said
    (`said`), or else by their order of arrival. So what is served, labelled and right in the end does not depend on
    the order in which all came, as long as nothing expires and nothing is given up.

    >>> ledger = Ledger(expiry=60.0)
    >>> ledger.serve(Record("r1", {"x": 1.0}), Prediction("r1", "rain"), now=0.0)
    >>> ledger.label("r1", "snow", now=30.0).prediction.answer
    'rain'
    """

    def __init__(self, expiry: float | None = None, capacity: int = 10_000, corrections: int = 1_000) -> None:
        if capacity < 1 or corrections < 0 or (expiry is not None and not expiry >= 0):
            raise ValueError(
                f"a ledger needs a capacity of at least 1, and an expiry and corrections of at least 0, but has "
                f"capacity={capacity}, expiry={expiry}, corrections={corrections}"
            )
        self.expiry, self.capacity, self.corrections = expiry, capacity, corrections
        self.counts = Counts()
        self._now = float("-inf")
        self._waiting: OrderedDict[str, _Row] = OrderedDict()
        self._settled: OrderedDict[str, _Row] = OrderedDict()
        self._early: OrderedDict[str, _Early] = OrderedDict()
        self._gone = Seen(max(capacity, corrections))
        """Rows that are no longer here: their labels are late, and not early."""

    def __contains__(self, id: str) -> bool:  # noqa: A002 (what records call it)
        return id in self._waiting or id in self._settled

    def awaits(self, id: str) -> bool:  # noqa: A002
        """Whether this row waits for its label."""
        return id in self._waiting

    @property
    def waiting(self) -> int:
        """Rows that wait for their label."""
        return len(self._waiting)

    def serve(self, record: Record, prediction: Prediction, now: float) -> Settled | None:
        """A prediction was served for `record`; where its label came before it, both are returned."""
        if record.id in self:
            raise ValueError(f"row {record.id!r} was served before; drop duplicates first (everlearn.online.seen)")
        now = self._passed(now)
        self.counts.served += 1
        early = self._early.pop(record.id, None)
        if early is not None:
            return self._settle(_Row(record, prediction, now), early.label, early.said)
        self._waiting[record.id] = _Row(record, prediction, now)
        if len(self._waiting) > self.capacity:
            self.counts.dropped += 1
            self._leave(self._waiting)
        return None

    def label(self, id: str, label: Label, now: float, said: float | None = None) -> Settled | None:  # noqa: A002
        """The label of the row `id`, as said at the time `said`; None where there is nothing new to be scored."""
        now = self._passed(now)
        if row := self._waiting.pop(id, None):
            return self._settle(row, label, said)
        if row := self._settled.get(id):
            was = row.label
            return Settled(row.record, row.prediction, label, was) if self._news(row, label, said) else None
        if id in self._gone:
            self.counts.late += 1
        elif early := self._early.get(id):
            self._news(early, label, said)
        else:
            self.counts.early += 1
            self._early[id] = _Early(label, now, said)
            if len(self._early) > self.capacity:
                self.counts.unknown += 1
                self._early.popitem(last=False)
        return None

    def expire(self, now: float) -> list[Record]:
        """Gives up what has waited for longer than `expiry`; returns the rows. All other verbs do that, too."""
        self._now = max(self._now, now)
        if self.expiry is None:
            return []
        given_up = []
        while self._waiting and self._old(next(iter(self._waiting.values())).since):
            self.counts.expired += 1
            given_up.append(self._leave(self._waiting))
        while self._settled and self._old(next(iter(self._settled.values())).since):
            self._leave(self._settled)
        while self._early and self._old(next(iter(self._early.values())).since):
            self.counts.unknown += 1
            self._early.popitem(last=False)
        return given_up

    def state_dict(self) -> dict[str, Any]:
        """All rows and labels, as plain values in bytes."""
        return {
            "now": self._now,
            "counts": asdict(self.counts),
            "waiting": pack([_packed(row) for row in self._waiting.values()]),
            "settled": pack([_packed(row) for row in self._settled.values()]),
            "early": pack([[id, each.label, each.since, each.said] for id, each in self._early.items()]),  # noqa: A001
            "gone": self._gone.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved."""
        self._now = state["now"]
        self.counts = Counts(**state["counts"])
        self._waiting, self._settled = (
            OrderedDict((row.record.id, row) for row in map(_unpacked, unpack(state[name])))
            for name in ("waiting", "settled")
        )
        self._early = OrderedDict((id, _Early(*each)) for id, *each in unpack(state["early"]))  # noqa: A001
        self._gone.load_state_dict(state["gone"])

    # -- inside -----------------------------------------------------------------------------------------------

    def _passed(self, now: float) -> float:
        """The time, which does not go backwards; what is too old then is given up."""
        self.expire(now)
        return self._now

    def _old(self, since: float) -> bool:
        return self.expiry is not None and self._now - since > self.expiry

    def _settle(self, row: _Row, label: Label, said: float | None) -> Settled:
        self.counts.labelled += 1
        row.label, row.said, row.since = label, said, self._now  # from now on it waits for a correction
        self._settled[row.record.id] = row
        if len(self._settled) > self.corrections:
            self._leave(self._settled)
        return Settled(row.record, row.prediction, label)

    def _leave(self, rows: "OrderedDict[str, _Row]") -> Record:
        """Lets go of the oldest."""
        _, row = rows.popitem(last=False)
        self._gone.admit(row.record.id)
        return row.record

    def _news(self, known: _Row | _Early, label: Label, said: float | None) -> bool:
        """Whether a label says something else than the known one, and not earlier: then it takes its place."""
        older = known.said is not None and said is not None and said < known.said
        news = label != known.label and not older
        if not older:
            known.label, known.said = label, said if said is not None else known.said
        if news:
            self.counts.corrected += 1
        else:
            self.counts.double += 1
        return news


def _packed(row: _Row) -> list[Any]:
    return [plain_record(row.record), plain_prediction(row.prediction), row.since, row.label, row.said]


def _unpacked(values: list[Any]) -> _Row:
    record, prediction, *rest = values
    return _Row(record_of(record), prediction_of(prediction), *rest)
