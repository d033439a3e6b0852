"""The upper bounds: what could be reached if the past were still there."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from everlearn.batch import Batch, Column, Rows
from everlearn.data.rows import Concat, Subset
from everlearn.streams.experience import Experience, Stream


def cumulative(stream: Stream) -> list[Experience]:
    """Each experience brings all that came before it along: what retraining on everything would see."""
    experiences = list(stream)
    return [
        Experience(
            each.index,
            Together([past.train for past in experiences[: place + 1]]),
            each.test,
            _union(experiences[: place + 1]),
            each.task,
        )
        for place, each in enumerate(experiences)
    ]


def joint(stream: Stream) -> list[Experience]:
    """Everything at once, as one experience."""
    experiences = list(stream)
    train, test = Together([each.train for each in experiences]), Together([each.test for each in experiences])
    return [Experience(0, train, test, _union(experiences))]


class Together:
    """The rows of all parts, in order; nothing is looked at before the first rows are taken."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts

    @property
    def resident(self) -> bool:
        """Whether all parts are resident."""
        return all(part.resident for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`."""
        return self._rows.take(index)

    def column(self, name: str) -> Column:
        """The column's values of all parts, in order."""
        return self._rows.column(name)

    @cached_property
    def _rows(self) -> Rows:
        """Parts of one data set are one part of it: one gather takes what many would."""
        subsets = [part for part in self.parts if isinstance(part, Subset)]
        if len(subsets) == len(self.parts) and len({id(part.rows) for part in subsets}) == 1:
            return Subset(subsets[0].rows, torch.cat([part.index for part in subsets]))
        return Concat(self.parts)


def _union(experiences: list[Experience]) -> tuple[int, ...]:
    """All classes, in the order of their arrival."""
    return tuple(dict.fromkeys(label for each in experiences for label in each.classes))
