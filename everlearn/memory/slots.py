"""Ids in slots: where some are, which are new, and how holes are filled."""

import numpy as np
from numpy.typing import NDArray

from everlearn.memory.bottomk import Indices
from everlearn.memory.priority import Ids


def find(kept: Ids, ids: Ids) -> tuple[Indices, Indices]:
    """The positions in `ids`, (n,), of those in `kept`, (count,), and their slots, ascending; of repeated ids the last.

    >>> find(np.array([9, 7, 5]), np.array([9, 4, 5, 9]))
    (array([3, 2]), array([0, 2]))
    """
    different, last = np.unique(ids[::-1], return_index=True)
    _, slots, places = np.intersect1d(kept, different, assume_unique=True, return_indices=True)
    order = slots.argsort()
    return len(ids) - 1 - last[places[order]], slots[order]


def unknown(ids: Ids, *known: Ids) -> Indices:
    """The positions in `ids`, (n,), ascending, of those that are nowhere in `known`; of repeated ids the last.

    >>> unknown(np.array([9, 4, 5, 9]), np.array([5]), np.array([6]))
    array([1, 3])
    """
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    return np.sort(last[~np.isin(ids[last], np.concatenate(known))])


def moves(gone: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """From which slots to which, if those that are `gone`, (count,), leave, so that no slot of the first is empty.

    >>> moves(np.array([True, False, False, True]))
    (array([2]), array([0]))
    """
    count = len(gone) - np.count_nonzero(gone)
    return count + (~gone[count:]).nonzero()[0], gone[:count].nonzero()[0]
