"""What makes a service durable: lines first, then the checkpoint that knows of them, and then the feed is told."""

from collections.abc import Callable, Sequence
from typing import Any

from everlearn.checkpoint import Checkpoints
from everlearn.online.lines import Lines
from everlearn.online.quarantine import Quarantine
from everlearn.streams.feed import Feed, Position


class Keeping:
    """The checkpoints of a service, with the `files` whose lengths they know, and the feed that is told of them.

    The order is all there is to it. A file is on the disk before the checkpoint that holds its length, so that whoever
    goes on from that can cut it back to there. The feed is told that a position is safe when the checkpoint that holds
    it is; so what is read again after a kill is never less than what was not learned.

    `save` may be called in another thread than `acknowledge`, which is called where the feed is read.
    """

    def __init__(self, checkpoints: Checkpoints, files: Sequence[Lines | Quarantine], feed: Feed) -> None:
        self.files, self.feed = files, feed
        self._checkpoints = checkpoints
        self.records = 0
        """How many the last checkpoint knows of."""
        self._safe: list[Position] = []
        """Positions that were saved, and that the feed has not been told of."""

    def due(self) -> bool:
        """Called after each record: whether it is time to save."""
        return self._checkpoints.due()

    def save(self, state: dict[str, Any], records: int, position: Position) -> None:
        """Makes a state durable, after so many records, at this position in the feed."""
        for file in self.files:
            file.sync()
        self._checkpoints.save(state, records)
        self._safe.append(position)
        self.records = records

    def acknowledge(self) -> None:
        """Tells the feed what is durable."""
        while self._safe:
            position = self._safe.pop(0)
            if position is not None:
                self.feed.acknowledge(position)

    def load(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The last state that is whole, or None if there has never been one; `say` is told of damaged ones."""
        return self._checkpoints.load(say)
