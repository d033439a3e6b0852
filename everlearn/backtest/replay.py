"""The walk through a log: labels that have arrived, then an update if one is due, then the next row is asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from everlearn.backtest.archive import Archive
from everlearn.backtest.log import Log
from everlearn.backtest.policy import Policy
from everlearn.streams.feed import Label

BLOCK = 512
"""Rows that are asked at once, at most, where nothing changes between them; a replay is saved between blocks."""


class Replay:
    """One policy on one log, from the end of the warm-up.

    Rows between two updates are asked together: serving them one by one would give the same answers.
    """

    def __init__(self, log: Log, archive: Archive, policy: Policy, warm: int) -> None:
        self.log, self.archive, self.policy, self.warm = log, archive, policy, warm
        self.at = 0
        """The row that is asked next; 0: the warm-up is yet to come."""
        self.answers: list[Label] = []
        """What was served, from row `warm` on."""
        archive.first, archive.answers = warm, self.answers
        self.newest: list[int] = []
        """The newest row that had been learned when each of these was asked; -1: none."""
        self.seconds = {"warm-up": 0.0, "learning": 0.0, "answering": 0.0}
        """Processor time."""
        known = [i for i, label in enumerate(log.labels) if label is not None and log.arrivals[i] < len(log)]
        self._known = sorted(known, key=lambda row: (log.arrivals[row], row))
        self._arrivals = np.asarray([log.arrivals[row] for row in self._known], dtype=np.int64)

    @property
    def done(self) -> bool:
        """Whether all rows have been asked."""
        return self.at >= len(self.log)

    def steps(self) -> Iterator[int]:
        """Goes on to the end; each yield, at the end of a block, is a moment at which it can be saved."""
        if self.at == 0:
            self.archive.at(self.warm)
            with self._timed("warm-up"):
                self.policy.warm_up(sorted(self._known[: self._place(self.warm + 1)]))
            self.at = self.warm
            yield self.at
        while not self.done:
            self._block(min(self.at - self.at % BLOCK + BLOCK, len(self.log)))
            yield self.at

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and what has been served so far."""
        names = [] if self.log.regression else list(dict.fromkeys(self.answers))
        codes = {name: code for code, name in enumerate(names)}
        said = [codes[answer] if names else float(answer) for answer in self.answers]
        return {
            "at": self.at,
            "names": names,
            "answers": torch.tensor(said, dtype=torch.float64),
            "newest": torch.tensor(self.newest, dtype=torch.int64),
            "seconds": dict(self.seconds),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.at, self.seconds = state["at"], dict(state["seconds"])
        names, said = state["names"], state["answers"].tolist()
        self.answers[:] = [names[int(code)] for code in said] if names else said
        self.newest = state["newest"].tolist()
        self.archive.at(self.at)
        if self.done:  # it will not be asked again: what came out is all that is needed, and outlives new versions
            Policy.load_state_dict(self.policy, state["policy"])
        else:
            self.policy.load_state_dict(state["policy"])

    # -- inside -----------------------------------------------------------------------------------------------

    def _block(self, end: int) -> None:
        """Asks the rows up to `end`."""
        policy, since = self.policy, self.at
        # What arrives by the first row after the warm-up was part of the warm-up.
        place = self._place(self.at + (self.at == self.warm))
        for now in range(self.at, end):
            self.archive.at(now)
            begin = place
            while place < len(self._known) and self._arrivals[place] == now:
                place += 1
            if place > begin:
                if policy.looks and max(self._known[begin:place]) >= since:
                    self._ask(since, now)
                    self.archive.at(now)
                    since = now
                policy.arrive(self._known[begin:place])
            if policy.due(now):
                self._ask(since, now)
                self.archive.at(now)
                since = now
                with self._timed("learning"):
                    policy.update(now)
        self._ask(since, end)
        self.at = end

    def _ask(self, start: int, end: int) -> None:
        """Asks rows between two updates."""
        if end > start:
            self.archive.at(start, end - 1)
            with self._timed("answering"):
                self.answers += self.policy.answer(range(start, end))
            self.newest += [self.policy.effort.newest] * (end - start)

    def _place(self, row: int) -> int:
        """How many labels arrived before row `row` was asked."""
        return int(np.searchsorted(self._arrivals, row, side="left"))

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds[what] += time.process_time() - begin
