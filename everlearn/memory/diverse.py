"""A memory of rows that are unlike each other, by a score that each brings along."""

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import Batch, tensor
from everlearn.memory.bottomk import Indices
from everlearn.memory.memory import Index, Memory
from everlearn.memory.priority import Ids
from everlearn.memory.ring import Latest
from everlearn.memory.slots import unknown
from everlearn.randomness import mix

_ONE = 1 << 30
"""What a score of 1 is to an index, which counts in whole numbers."""


class Diverse(Memory):
    """Keeps rows with small scores: the score says how much a row is like others, and is its column "score".

    Scores are floats from 0 to 2, (n,); 1 is neither like the others nor unlike them. While there is room, every row
    enters. Then one of a score c < 1 challenges a row that is kept, drawn in proportion to C - min C with C its score,
    and takes its place with probability C / (C + c). The rows of one batch challenge different rows.
    What comes under an id that is kept is passed over; what has left may come again. Aljundi et al., Gradient Based
    Sample Selection for Online Continual Learning, NeurIPS 2019, arXiv:1903.08671, algorithm 2, where the draw is by C;
    by C - min C, as in the authors' code, the rows that are most unlike the others are never challenged.

    Draws are a function of the seed and of the number of rows that were offered before. An offer costs some passes
    over the ids that are kept: it is made for small memories.

    >>> memory = Diverse(2)
    >>> memory.add({"score": torch.tensor([1.0, 1.0, 1.5])})
    >>> memory.ids.tolist()
    [0, 1]
    """

    def groups(self, batch: Batch) -> Tensor:
        """The scores, in parts of 1: what the index decides by."""
        return (tensor(batch, "score").double() * _ONE).to(torch.int64)

    def index(self) -> Index:
        """Who challenges whom, and who wins."""
        return Challenged(self.seed)


class Challenged(Latest):
    """The ids of rows and their scores, in slots that they hold until they lose them to a challenger.

    Finding and forgetting are those of `Latest`; which ids enter is another matter.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def offer(self, ids: Ids, labels: Ids | None, *, new: bool = False) -> tuple[Indices, Indices]:
        """Decides about ids, (n,) int64, whose scores are `labels`, (n,) int64.

        Returns the positions in `ids` of those that enter, ascending, and their slots, ascending; what lay in those
        slots before has left.
        """
        assert labels is not None  # noqa: S101 (the scores, which `Diverse` gives)
        scores = np.maximum(labels, 1)  # of two scores of 0, each would win against the other
        times = self._time + np.arange(len(ids))
        draws = np.random.default_rng(mix(self._seed, self._time))
        self._time += len(ids)
        entering = np.arange(len(ids))
        if not new or self._forgotten.size:
            entering = unknown(ids, self._kept[0], self._forgotten)
        room = self.capacity - self.count
        free, rivals = entering[:room], entering[room:]
        rivals = rivals[scores[rivals] < _ONE]
        if not len(free) + len(rivals):
            return free, free
        held = self._kept[2]
        rates = held - held.min(initial=_ONE << 1)
        rates = rates if rates.any() else np.ones_like(rates)
        # The first to ring of clocks with these rates is a draw in proportion to them, and so is each that follows.
        rings = np.divide(draws.exponential(size=len(held)), rates, out=np.full(len(held), np.inf), where=rates > 0)
        slots = rings.argsort(kind="stable")[: min(len(rivals), np.count_nonzero(rates))]
        rivals = rivals[: len(slots)]
        wins = draws.random(len(rivals)) * (held[slots] + scores[rivals]) < held[slots]
        entering = np.concatenate([free, rivals[wins]])
        slots = np.concatenate([np.sort(slots[wins]), np.arange(self.count, self.count + len(free))])
        kept = np.empty((3, self.count + len(free)), np.int64)
        kept[:, : self.count] = self._kept
        kept[:, slots] = np.stack([ids, times, scores])[:, entering]
        self._kept = kept
        return entering, slots

    def regroup(self, slots: Indices, labels: Ids) -> None:
        """Gives the ids in these slots the scores `labels`, (n,) each."""
        super().regroup(slots, np.maximum(labels, 1))
