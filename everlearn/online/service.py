"""A service on a stream: each row is answered, waits for its label, is scored, and learned. It may be killed any time.

RUN/config.json         what was asked
RUN/checkpoints/        the last states: weights, waiting rows, counts, and the position in the feed that they belong to
RUN/events.jsonl        drift
RUN/quarantine.jsonl    rows that could not be read or learned
RUN/predictions.jsonl   what was answered, if that was asked for
RUN/report.html, report.json    when the stream has ended, or the service was stopped
"""

import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everlearn.checkpoint import Checkpoints, locked
from everlearn.metrics.prequential import Prequential
from everlearn.online.behind import Behind
from everlearn.online.block import Block
from everlearn.online.drift import Drift
from everlearn.online.encoding import LARGEST
from everlearn.online.engine import Online, Prediction
from everlearn.online.keeping import Keeping
from everlearn.online.latency import Latency
from everlearn.online.learning import Learning, Lesson, lesson_of, plain_lesson
from everlearn.online.ledger import Ledger, Settled
from everlearn.online.lines import Lines
from everlearn.online.packing import pack, unpack
from everlearn.online.quarantine import Quarantine
from everlearn.online.seen import Seen
from everlearn.online.settings import Settings
from everlearn.online.span import Span
from everlearn.randomness import mix, seed_globals
from everlearn.streams.feed import Feed, Label, Position, Record

_MOST = 256
"""Records that are asked for at a time."""

_WAIT = 0.25
"""Seconds to wait for them."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a service is, between two records."""

    records: int
    idle: bool = False
    """Whether nothing had come."""


@dataclass(slots=True)
class Tally:
    """What came, in numbers."""

    records: int = 0
    rows: int = 0
    """Rows that were answered."""
    labels: int = 0
    """Labels that came by themselves."""
    duplicates: int = 0
    shed: int = 0
    """Rows that were not learned because the queue was full."""


class Service:
    """A stream that is answered and learned, in a folder. `steps` does the work.

    Everything that decides about what comes is a function of the records in their order: of no clock, and of no sizes
    in which a feed hands them out. So a service that was killed ends like one that never was, bit for bit: the position
    in the feed is saved in one file with the weights, and the feed is told that a record is safe only after that. With
    a queue (`replicas`), when a row is learned depends on how quick the machine is; then still none is lost, but for
    those that are shed, and none is learned twice.

    `batch_size` rows are learned together. Rows are answered as they come, each at its own place in a `Block`.
    """

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        online: Online,
        score: Prequential,
        drift: Drift | None = None,
        *,
        replicas: tuple[Online, Online] | None = None,
    ) -> None:
        self.settings, self.feed, self.score = settings, feed, score
        self.folder = Path(settings.out)
        self.tally, self.latency = Tally(), Latency()
        patience = settings.patience
        expiry = None if patience is None else patience.amount
        self.ledger = Ledger(expiry, settings.capacity, settings.corrections)
        self.seen = Seen(settings.duplicates)
        self.quarantine = Quarantine(self.folder / "quarantine.jsonl", settings.bad_rows)
        self.learning = Learning(online, drift, Lines(self.folder / "events.jsonl"))
        self.behind = replicas and Behind(
            self.learning,
            replicas,
            room=settings.queue,
            live=feed.follow,
            batch_size=settings.batch_size,
            publish=settings.publish,
            seed=settings.seed,
        )
        self.ended = False
        """Whether all is learned that there will ever be."""
        self._before = 0.0
        """Seconds spent in earlier sittings."""
        self._since = time.monotonic()
        self._patience, self._delay = patience or Span(math.inf, timed=False), settings.delay
        self._predictions = Lines(self.folder / "predictions.jsonl") if settings.predictions else None
        self._block = Block(settings.batch_size, (self.behind or online).predict)
        checkpoints = Checkpoints(
            self.folder / "checkpoints",
            every_steps=settings.checkpoint_rows or None,
            every_seconds=settings.checkpoint_seconds or None,
        )
        files = (self.quarantine, self.learning.events, *([self._predictions] if self._predictions else ()))
        self._keeping = Keeping(checkpoints, files, feed)
        self._position: Position = None
        self._now = -math.inf
        self._held: deque[tuple[float, str, Label, float | None]] = deque()
        """Labels that are held back: when they are due, the row, the label, and when it was said."""
        self._holding: Counter[str] = Counter()
        """The rows that these are of: there may be very many of them, and each row that comes again is looked for."""
        self._pending: list[Lesson] = []
        """What waits for its batch to be full."""

    @property
    def held(self) -> int:
        """Labels that are held back."""
        return len(self._held)

    @property
    def spent(self) -> float:
        """Seconds at work, over all sittings."""
        return self._before + time.monotonic() - self._since

    def steps(self, say: Callable[[str], None] = print) -> Generator[Moment, None, None]:
        """Goes on from the last checkpoint until the feed ends; each yield is a moment at which `save` may be called.

        `say` is told of checkpoints that are damaged. Raises a QuarantineError, with all saved, for too many bad rows.
        """
        with locked(self.folder):
            self._restore(say)
            with self.behind.running() if self.behind else nullcontext():
                yield from self._work()

    def save(self, *, wait: bool = True) -> None:
        """Takes a checkpoint now, and then tells the feed. With a queue and without `wait`, the learner takes it."""
        if self.behind is None:
            self._write(self._state(), self._position, self.learning.state_dict(), self._pending)
        elif wait or not self.behind.saving:
            self._collect()
            state, position = self._state(), self._position
            self.behind.save(lambda learned, waiting: self._write(state, position, learned, waiting), wait=wait)
        self._keeping.acknowledge()

    # -- records ----------------------------------------------------------------------------------------------

    def _work(self) -> Generator[Moment, None, None]:
        self._since = time.monotonic()
        while not self.ended:
            records = self._read()
            came = time.perf_counter()
            self._block.forget()
            for number, record in enumerate(records):
                came = self._take(records, number, came)
                self._position = record.position
                self._after()
                yield Moment(self.tally.records)
            if not records:
                if self.feed.ended:
                    self._finish()
                elif self._keeping.records < self.tally.records and self._keeping.due():
                    self.save(wait=False)
                self.flush()
                yield Moment(self.tally.records, idle=True)

    def _read(self) -> list[Record]:
        """The next records. Where the feed cannot go on, what was learned is saved: it may not come again."""
        try:
            return self.feed.read(_MOST, _WAIT)
        except (ValueError, OSError):
            if self.tally.records > self._keeping.records:
                self.save()
            raise

    def _take(self, records: Sequence[Record], number: int, came: float) -> float:
        """One record, whatever it is; gives the time when that was done."""
        record = records[number]
        self.tally.records += 1
        if record.time is not None:
            self._now = max(self._now, record.time)
        self._deliver()
        if record.problem:
            self.quarantine.add(record, record.problem)
        elif record.label is not None and record.is_label:
            self.tally.labels += 1
            self._label(record, record.label)
        elif self._came(record.id):
            self.tally.duplicates += 1
            if record.label is not None and self.ledger.awaits(record.id) and record.id not in self._holding:
                self._told(record, record.label)  # it came without one before
        else:
            self._row(records, number, came)
        self._deliver()
        return time.perf_counter()

    def _came(self, id_: str) -> bool:
        """Whether the row has come before."""
        return id_ in self.ledger or id_ in self.seen

    def _row(self, records: Sequence[Record], number: int, came: float) -> None:
        """Answers a row, and then looks at its label, if it has one."""
        record = records[number]
        try:
            prediction = self._block.answer(records, number, self._came)
        except ValueError as error:
            self.quarantine.add(record, str(error))
            return
        self.latency.add(time.perf_counter() - came)
        self.seen.admit(record.id)
        self.tally.rows += 1
        if self._predictions is not None:
            self._predictions.append(_line(prediction))
        self._settle(self.ledger.serve(record, prediction, self._clock(self._patience)))
        if record.label is not None:
            self._told(record, record.label)

    # -- labels -----------------------------------------------------------------------------------------------

    def _told(self, record: Record, label: Label) -> None:
        """A label that came with its row, now or when it has been held back."""
        if self._delay is None:
            self._label(record, label)
        else:
            self._held.append((self._clock(self._delay) + self._delay.amount, record.id, label, record.time))
            self._holding[record.id] += 1

    def _deliver(self) -> None:
        """The labels that were held back and are due now."""
        while self._held and self._delay is not None and self._held[0][0] <= self._clock(self._delay):
            self._release()

    def _release(self) -> None:
        _, id_, label, said = self._held.popleft()
        self._holding[id_] -= 1
        if not self._holding[id_]:
            del self._holding[id_]
        self._label(Record(id_, {}, label, said), label)

    def _label(self, record: Record, label: Label) -> None:
        try:
            label = self._known(label)
        except ValueError as error:
            self.quarantine.add(record, str(error))
            return
        self._settle(self.ledger.label(record.id, label, self._clock(self._patience), record.time))

    def _known(self, label: Label) -> Label:
        """A label as the task has it; a ValueError for what cannot be one."""
        if self.settings.task == "regression":
            if isinstance(label, str) or not abs(label) < LARGEST:  # else it would be scored, and never learned
                raise ValueError(
                    f"the label is {label!r:.40}, but a finite number below {LARGEST:.0e} is to be predicted"
                )
            return float(label)
        if isinstance(label, str):
            if not label:
                raise ValueError("the label is an empty text, which names no class")
            return label
        if not abs(label) <= sys.float_info.max:  # a whole number may be larger than all floats
            raise ValueError(f"the label is {label!r:.40}, which names no class")
        return str(int(label)) if label == int(label) else str(label)

    def _settle(self, settled: Settled | None) -> None:
        """Scores the answer that was served, now that the label is known, and has the row learned."""
        if settled is None:
            return
        answer = settled.prediction.answer
        served = None if answer == "" else answer
        if settled.was is None:
            self.score.update(served, settled.label)
        else:
            self.score.correct(served, settled.was, settled.label)
            for place, lesson in enumerate(self._pending):
                if lesson.settled.record.id == settled.record.id:  # it was not learned yet with its wrong label
                    right = Settled(settled.record, settled.prediction, settled.label, lesson.settled.was)
                    self._pending[place] = Lesson(right, lesson.at, lesson.time)
                    return
        lesson = Lesson(settled, self.score.rows, None if self._now == -math.inf else self._now)
        if self.behind is not None:
            self.behind.put(lesson)
            self.tally.shed = self.behind.shed
            return
        self._pending.append(lesson)
        if len(self._pending) == self.settings.batch_size:
            self._learn()

    def _learn(self) -> None:
        """Learns what waits; from here on answers are others."""
        batch, self._pending = self._pending, []
        self.learning(batch)
        self._block.begin()

    def _clock(self, span: Span) -> float:
        """How late it is, as the span is measured: rows that were answered, or the latest time of a record."""
        if not span.timed:
            return self.tally.rows
        if self._now == -math.inf:
            raise ValueError(
                f"the rows of {self.feed.name} have no time, but {span.amount:g} seconds are to be measured; name the "
                "column of the time (--time), or give a number of rows"
            )
        return self._now

    # -- saving -----------------------------------------------------------------------------------------------

    def _after(self) -> None:
        """What may be due between two records."""
        self._collect()
        self._keeping.acknowledge()
        try:
            self.quarantine.check(self.tally.records)
        except ValueError:
            self.save()
            raise
        if self._keeping.due():
            self.save(wait=False)

    def _collect(self) -> None:
        """Puts the rows that could not be learned where the other bad ones are."""
        if self.behind is not None and self.behind.saving:
            return  # they are being saved as they are
        while self.learning.refused:
            self.quarantine.add(*self.learning.refused.pop(0))

    def flush(self) -> None:
        """Lets others read what has happened."""
        for lines in (self.quarantine, self._predictions, None if self.behind else self.learning.events):
            if lines is not None:
                lines.flush()

    def _state(self) -> dict[str, Any]:
        return {
            "position": pack(self._position),
            "now": self._now,
            "place": self._block.place,
            "ended": self.ended,
            "tally": asdict(self.tally),
            "seen": self.seen.state_dict(),
            "ledger": self.ledger.state_dict(),
            "score": self.score.state_dict(),
            "quarantine": self.quarantine.state_dict(),
            "held": pack(list(self._held)),
            "predictions": self._predictions.flush() if self._predictions is not None else 0,
            "clock": {"seconds": self.spent, "latency": list(self.latency.counts)},
        }

    def _write(
        self, state: dict[str, Any], position: Position, learned: dict[str, Any], waiting: Sequence[Lesson]
    ) -> None:
        lessons = pack([plain_lesson(lesson) for lesson in waiting])
        whole = {"service": state, "learning": learned, "lessons": lessons}
        self._keeping.save(whole, state["tally"]["records"], position)

    def _restore(self, say: Callable[[str], None]) -> None:
        saved = self._keeping.load(say)
        if saved is None:
            for lines in (self._predictions, self.learning.events):
                if lines is not None:
                    lines.cut(0)
            self.quarantine.load_state_dict({"count": 0, "bytes": 0})
            self.feed.seek(None)
            seed_globals(mix(self.settings.seed))  # from which dropout draws
            return
        state = saved["service"]
        self._position, self._now, self._block.place = unpack(state["position"]), state["now"], state["place"]
        self.ended, self.tally = state["ended"], Tally(**state["tally"])
        self._keeping.records = self.tally.records
        for part in ("seen", "ledger", "score", "quarantine"):
            getattr(self, part).load_state_dict(state[part])
        self._held = deque((due, id_, label, said) for due, id_, label, said in unpack(state["held"]))
        self._holding = Counter(id_ for _, id_, _, _ in self._held)
        if self._predictions is not None:
            self._predictions.cut(state["predictions"])
        self._before, self.latency.counts = state["clock"]["seconds"], list(state["clock"]["latency"])
        self.learning.load_state_dict(saved["learning"])
        lessons = [lesson_of(values) for values in unpack(saved["lessons"])]
        if self.behind is None:
            self._pending = lessons
        else:
            self.behind.waiting, self.behind.shed = lessons, self.tally.shed
        self.feed.seek(self._position)

    def _finish(self) -> None:
        """The stream has ended: labels that were held back come, and what waits is learned."""
        while self._held:
            self._release()
        if self.behind is not None:
            self.behind.drain()
        elif self._pending:
            self._learn()
        self._collect()
        self.ended = True
        self.save()


def _line(prediction: Prediction) -> dict[str, Any]:
    """A prediction for its file."""
    said = {"id": prediction.id, "answer": prediction.answer, "steps": prediction.steps}
    return said | ({"confidence": max(prediction.scores)} if prediction.scores else {})
