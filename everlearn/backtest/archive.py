"""What a policy may see of a log by now. It is a wall, not a convention: the future cannot be read through it."""

from collections.abc import Sequence

from everlearn.backtest.log import Log
from everlearn.streams.feed import Label, Record


class LookaheadError(RuntimeError):
    """A policy asked for what was not known yet."""


class Archive:
    """The log as it was known when row `now` was asked: the labels that had arrived, and the rows up to `asked`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.now = self.asked = 0
        self.first = 0
        """The row that was served first."""
        self.answers: list[Label] = []
        """What was served, from that one on."""
        self.timed, self.regression = log.timed, log.regression

    def at(self, now: int, asked: int | None = None) -> None:
        """Moves to the moment at which row `now` is asked, together with those up to `asked`."""
        self.now, self.asked = now, now if asked is None else asked

    def records(self, rows: Sequence[int]) -> list[Record]:
        """These rows, without labels."""
        if late := [row for row in rows if row > self.asked]:
            raise LookaheadError(f"row {late[0]} was read when row {self.asked} was asked")
        return [self._log.records[row] for row in rows]

    def labels(self, rows: Sequence[int]) -> list[Label]:
        """The labels of these rows."""
        found = []
        for row in rows:
            label = self._log.labels[row]
            if label is None or self._log.arrivals[row] > self.now:
                when = "never" if label is None else f"when row {self._log.arrivals[row]} is asked"
                raise LookaheadError(
                    f"the label of row {row} was read when row {self.now} was asked; it is known {when}"
                )
            found.append(label)
        return found

    def served(self, row: int) -> Label | None:
        """What the policy answered, or None: a row of the warm-up was not asked."""
        if row - self.first >= len(self.answers):
            raise LookaheadError(
                f"the answer to row {row} was read before it was given; does the policy say that it `looks`?"
            )
        return self.answers[row - self.first] if row >= self.first else None

    def clock(self, row: int) -> float:
        """When a row was asked, in seconds; without times, its number."""
        if row > self.asked:
            raise LookaheadError(f"the time of row {row} was read when row {self.asked} was asked")
        return self._log.clock[row]
