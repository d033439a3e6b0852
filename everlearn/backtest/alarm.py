"""Updates when errors say that the world has changed, and not by the calendar."""

from collections.abc import Sequence
from typing import Any

from everlearn.backtest.archive import Archive
from everlearn.online.detectors import DEFAULT, Bounded, detectors
from everlearn.streams.feed import Label


class Wrong(Bounded):
    """How wrong served answers were, from 0 to 1: what a detector of drift is told."""

    def __call__(self, answer: Label, label: Label) -> float:
        """The error of an answer."""
        return self.update(answer, label)


class Alarm:
    """Is due when a detector has spoken; then they begin anew, and nothing counts for `cooldown` labels."""

    def __init__(self, archive: Archive, text: str = DEFAULT, cooldown: int = 500) -> None:
        self.archive, self.cooldown = archive, cooldown
        self.detectors = detectors(text)
        self.wrong = Wrong()
        self._new = [each.state_dict() for each in self.detectors]
        self.ringing, self.quiet = False, 0

    def hear(self, rows: Sequence[int]) -> None:
        """The labels of these rows have come, and say how wrong the answers were."""
        for row, label in zip(rows, self.archive.labels(rows), strict=True):
            answer = self.archive.served(row)
            if answer is None:
                continue
            error = self.wrong(answer, label)
            spoke = any([each.update(error) for each in self.detectors])  # noqa: C419 (each is told)
            if self.quiet:
                self.quiet -= 1
            elif spoke:
                self.ringing = True

    def due(self, now: int) -> bool:  # noqa: ARG002 (as a schedule)
        """Whether there is drift."""
        return self.ringing

    def done(self, now: int) -> None:  # noqa: ARG002
        """Begins anew."""
        self.ringing, self.quiet = False, self.cooldown
        for each, new in zip(self.detectors, self._new, strict=True):
            each.load_state_dict(new)

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return {
            "detectors": [each.state_dict() for each in self.detectors],
            "wrong": [self.wrong.total, self.wrong.count],
            "ringing": self.ringing,
            "quiet": self.quiet,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        for each, saved in zip(self.detectors, state["detectors"], strict=True):
            each.load_state_dict(saved)
        self.wrong.total, self.wrong.count = state["wrong"]
        self.ringing, self.quiet = state["ringing"], state["quiet"]
