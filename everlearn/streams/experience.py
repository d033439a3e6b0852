"""What arrives: data that is there now, and will be gone afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass

from everlearn.batch import Rows


@dataclass(frozen=True)
class Experience:
    """One arrival of data.

    `index` counts from 0 and names the experience wherever an order or a score depends on it; `train` and
    `test` are its rows; `classes` are the labels in `train`, as far as they are known; `task` is its task
    label, or None where there is none. `reference` are labelled rows that stand beside `train`, which need have no
    labels then: the source of an adaptation. `steps` is how many steps of the optimizer it will be learned in, for
    methods that ask how far it is; a `Learner` fills it in, your own loop says it.
    """

    index: int
    train: Rows
    test: Rows
    classes: tuple[int, ...] = ()
    task: int | None = None
    reference: Rows | None = None
    steps: int = 0


Stream = Iterable[Experience]
"""Experiences in the order of their arrival."""
