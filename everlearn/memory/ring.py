"""A memory of the last rows of each class."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from everlearn.memory.balanced import Balanced
from everlearn.memory.bottomk import Indices
from everlearn.memory.memory import Index
from everlearn.memory.priority import Ids
from everlearn.memory.slots import find, moves, unknown


class Ring(Balanced):
    """Keeps as many rows of each class as fit, and of each class those that came last: first in, first out.

    The class is the column "y". Places that a rare class cannot fill go to the others, and those that cannot be
    shared evenly to what came last. A row that comes again counts as new; it is not stored twice. So what is kept is
    a function of the order of arrival, not of the size of batches. An offer costs some passes over the ids that are
    kept: it is made for small memories. Chaudhry et al., On Tiny Episodic Memories, 2019, arXiv:1902.10486.

    A ring over all rows is a subclass whose `groups` gives None.

    >>> memory = Ring(4)
    >>> memory.add({"y": torch.tensor([0, 0, 0, 0, 1, 1, 1, 0])})
    >>> memory.ids.sort().values
    tensor([3, 5, 6, 7])
    """

    def index(self) -> Index:
        """The last ids of each group."""
        return Latest()


class Latest:
    """Of all ids offered, those with the `capacity` smallest keys: (newer ids of its group, newer ids of all).

    More ids can only raise a key, so whatever is out is out, until it comes again.
    """

    ROW_BYTES = 24

    def __init__(self) -> None:
        self.capacity = 0
        self._kept = np.empty((3, 0), np.int64)  # of each slot the id, the time of its last arrival and its group
        self._forgotten = np.empty(0, np.int64)
        self._time = 0

    @property
    def count(self) -> int:
        """How many ids are kept."""
        return len(self._kept[0])

    @property
    def ids(self) -> Ids:
        """The kept ids in the order of their slots, (count,) int64."""
        ids: Ids = self._kept[0].copy()
        return ids

    def offer(self, ids: Ids, labels: Ids | None, *, new: bool = False) -> tuple[Indices, Indices]:
        """Decides about ids, (n,) int64, whose groups have these labels, (n,) int64 (None: all are of one).

        Returns the positions in `ids` of those that enter, ascending, and their slots, ascending; what lay in those
        slots before has left.
        """
        times = self._time + np.arange(len(ids))
        self._time += len(ids)
        entering = np.arange(len(ids))
        if not new or self._forgotten.size:
            known, slots = self.find(ids)
            self._kept[1, slots] = times[known]
            entering = unknown(ids, self._kept[0], self._forgotten)
        groups = np.zeros(len(ids), np.int64) if labels is None else labels
        both = np.concatenate([self._kept, np.stack([ids, times, groups])[:, entering]], axis=1)
        stay = _last(both[1], both[2], self.capacity)
        old, young = stay[: self.count], stay[self.count :]
        entering = entering[young]
        slots = np.concatenate([(~old).nonzero()[0], np.arange(self.count, self.capacity)])[: len(entering)]
        kept = np.empty((3, np.count_nonzero(stay)), np.int64)
        kept[:, : self.count] = self._kept
        kept[:, slots] = both[:, self.count :][:, young]
        self._kept = kept
        return entering, slots

    def find(self, ids: Ids) -> tuple[Indices, Indices]:
        """The positions in `ids`, (n,) int64, of those that are kept, and their slots; of repeated ids the last."""
        return find(self._kept[0], ids)

    def regroup(self, slots: Indices, labels: Ids) -> None:
        """Moves the ids in these slots to the groups with these labels, (n,) each."""
        self._kept[2, slots] = labels

    def forget(self, ids: Ids) -> tuple[int, Indices, Indices]:
        """Removes ids, and turns them away for good.

        Returns how many were kept, and from which slots rows have to move to which, so that no slot stays empty.
        """
        self._forgotten = np.union1d(self._forgotten, ids)
        gone = np.isin(self._kept[0], ids)
        sources, targets = moves(gone)
        left = int(gone.sum())
        self._kept[:, targets] = self._kept[:, sources]
        self._kept = self._kept[:, : self.count - left].copy()
        return left, sources, targets

    def state_dict(self) -> dict[str, Any]:
        """All that decides about the future, as tensors and numbers."""
        arrays = {"kept": self._kept, "forgotten": self._forgotten}
        return {
            "capacity": self.capacity,
            "time": self._time,
            **{name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.capacity, self._time = state["capacity"], state["time"]
        self._kept, self._forgotten = (state[name].cpu().numpy().copy() for name in ("kept", "forgotten"))


def _last(times: Indices, groups: Indices, capacity: int) -> NDArray[np.bool_]:
    """Which of the ids, (n,), have the `capacity` smallest keys: (newer ids of its group, newer ids of all)."""
    stay = np.ones(len(times), np.bool_)
    if len(times) > capacity:
        order = np.lexsort((-times, groups))
        _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
        ranks = np.empty(len(times), np.int64)
        ranks[order] = np.arange(len(times)) - starts.repeat(sizes)
        stay[np.lexsort((-times, ranks))[capacity:]] = False
    return stay
