"""What a stream without borders gives: rows and labels, one after another, from a place that can be sought again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Position = Any
"""Where a feed stands, in plain values: what JSON holds. None is its beginning."""

Label = str | float
"""The name of a class, or a number to be predicted."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a stream; or only the label of one that came before, and then there are no fields.

    >>> Record("r1", {"temperature": 12.5, "day": "tue"}).label is None
    True
    >>> Record("r1", {}, "rain").is_label
    True
    """

    id: str
    """Names the row: what comes twice has the same one, and a label finds its row by it."""
    fields: Mapping[str, Any]
    """By name: numbers, truth values or texts. What is None or not there is missing."""
    label: Label | None = None
    """None where it is not known, or not yet."""
    time: float | None = None
    """When it happened, in seconds since 1970; None where nobody said."""
    position: Position = None
    """Where the feed goes on after it."""
    problem: str = ""
    """Why it could not be read, with its place; then there is nothing else in it to go by."""

    @property
    def is_label(self) -> bool:
        """Whether it is the label of an earlier row."""
        return not self.fields and self.label is not None


@runtime_checkable
class Feed(Protocol):
    """A source of records in an order of its own, which it keeps when they are read again from the same position."""

    @property
    def name(self) -> str:
        """What it reads, for people: a path or an address without secrets."""
        ...

    @property
    def follow(self) -> bool:
        """Whether it waits for more where nothing more is there: its rows are live, and come at a pace of their own."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing comes at present, and it is tried again; "" if all is well."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come any more, as at the end of a file that does not grow."""
        ...

    def read(self, most: int, wait: float = 0.0) -> list[Record]:
        """The next records, `most` of them at most: those that are there, or that come within `wait` seconds.

        None of them is read again unless `seek` goes back. [] means: nothing now.
        """
        ...

    def seek(self, position: Position) -> None:
        """Goes on just after the record that had this position; None goes back to the beginning."""
        ...

    def acknowledge(self, position: Position) -> None:
        """All up to this position is safe with the reader, and need not be given again."""
        ...

    def close(self) -> None:
        """Lets go of files and connections."""
        ...
