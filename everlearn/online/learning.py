"""What is learned once a label is known: drift is looked for, the rows are learned, what cannot be is handed back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everlearn.online.detectors import Bounded
from everlearn.online.drift import Drift, Event
from everlearn.online.engine import Online
from everlearn.online.ledger import Settled
from everlearn.online.lines import Lines
from everlearn.online.packing import plain_prediction, plain_record, prediction_of, record_of
from everlearn.streams.feed import Record


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row with its label, to be learned."""

    settled: Settled
    at: int
    """How many rows had been scored with it."""
    time: float | None


class Learning:
    """Learns lessons with `online`, in batches, and writes down what happens about drift.

    Rows that the engine refuses are tried one by one; those that it refuses alone are in `refused`, with the reason,
    until somebody takes them.
    """

    def __init__(self, online: Online, drift: Drift | None, events: Lines) -> None:
        self.online, self.drift, self.events = online, drift, events
        self.rows = 0
        """Rows that were learned."""
        self.happened = 0
        """Events so far."""
        self.refused: list[tuple[Record, str]] = []
        self._errors = Bounded()

    def __call__(self, lessons: Sequence[Lesson]) -> None:
        """Learns one batch."""
        if self.drift is not None:
            for lesson in lessons:
                if lesson.settled.was is None:  # the error of a corrected row has been counted
                    self._watch(self.drift, lesson)
        self._learn([lesson.settled for lesson in lessons])

    def state_dict(self) -> dict[str, Any]:
        """All of it; `events` is to be synced before it is saved."""
        return {
            "online": self.online.state_dict(),
            "drift": None if self.drift is None else self.drift.state_dict(),
            "events": self.events.flush(),
            "refused": [[plain_record(record), reason] for record, reason in self.refused],
            "errors": self._errors.state_dict(),
            "rows": self.rows,
            "happened": self.happened,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved."""
        self.online.load_state_dict(state["online"])
        if self.drift is not None:
            self.drift.load_state_dict(state["drift"])
        self.events.cut(state["events"])
        self.refused = [(record_of(record), reason) for record, reason in state["refused"]]
        self._errors.load_state_dict(state["errors"])
        self.rows, self.happened = state["rows"], state["happened"]

    def _watch(self, drift: Drift, lesson: Lesson) -> None:
        answer, label = lesson.settled.prediction.answer, lesson.settled.label
        for event in drift.update(self._errors.update(answer, label), self.online, lesson.at, lesson.time, label):
            self._note(event)

    def _note(self, event: Event) -> None:
        self.happened += 1
        self.events.append(asdict(event))

    def _learn(self, batch: Sequence[Settled]) -> None:
        records, labels = [each.record for each in batch], [each.label for each in batch]
        try:
            if self.drift is None:
                self.online.learn(records, labels)
            else:
                self.drift.learn(self.online, records, labels)
            self.rows += len(batch)
        except ValueError as error:  # bad rows, and a loss that is not finite; the engine is as it was
            if len(batch) == 1:
                self.refused.append((records[0], str(error)))
                return
            for each in batch:
                self._learn([each])


def plain_lesson(lesson: Lesson) -> list[Any]:
    """A lesson as plain values."""
    settled = lesson.settled
    return [
        plain_record(settled.record),
        plain_prediction(settled.prediction),
        settled.label,
        settled.was,
        lesson.at,
        lesson.time,
    ]


def lesson_of(values: list[Any]) -> Lesson:
    """What `plain_lesson` made the values of."""
    record, prediction, label, was, at, time = values
    return Lesson(Settled(record_of(record), prediction_of(prediction), label, was), at, time)
