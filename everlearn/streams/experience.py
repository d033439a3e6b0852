"""What arrives: data that is there now, and will be gone afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass

from everlearn.batch import Rows


@dataclass(frozen=True)
class Experience:
    """One arrival of data.

    `index` counts from 0 and names the experience wherever an order or a score depends on it; `train` and
    `test` are its rows; `classes` are the labels in `train`, as far as they are known; `task` is its task
    label, or None where there is none.
    """

    index: int
    train: Rows
    test: Rows
    classes: tuple[int, ...] = ()
    task: int | None = None


Stream = Iterable[Experience]
"""Experiences in the order of their arrival."""
