"""The priority of a row: a 64-bit hash of its id that can be undone."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Priorities = NDArray[np.uint64]

_GOLDEN, _FIRST, _SECOND = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_30, _27, _31 = map(np.uint64, (30, 27, 31))
_WRAP = 1 << 64


def stream(seed: int) -> np.uint64:
    """The key under which `seed` hashes: a 64-bit word, far from those of its neighbours."""
    word = np.array([seed % _WRAP], dtype=np.uint64)
    return np.uint64(_mix(word + _GOLDEN)[0])


def priorities(ids: Ids, key: np.uint64) -> Priorities:
    """The priority of each id, (n,) uint64: what SplitMix64, started at `key`, gives at place `id`.

    A bijection for each key: different ids never tie, and a priority tells its id. The generator is that of
    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.

    >>> hashed = priorities(np.arange(3), stream(0))
    >>> hashed.dtype, len(set(hashed.tolist()))
    (dtype('uint64'), 3)
    >>> identities(hashed, stream(0))
    array([0, 1, 2])
    """
    places: Priorities = ids.view(np.uint64) * _GOLDEN + key
    return _mix(places)


def identities(hashed: Priorities, key: np.uint64) -> Ids:
    """The ids that have these priorities under `key`, (n,) int64: the inverse of `priorities`."""
    word = _unshift(hashed, 31) * np.uint64(pow(int(_SECOND), -1, _WRAP))
    word = _unshift(word, 27) * np.uint64(pow(int(_FIRST), -1, _WRAP))
    ids: Ids = ((_unshift(word, 30) - key) * np.uint64(pow(int(_GOLDEN), -1, _WRAP))).view(np.int64)
    return ids


def _mix(word: Priorities) -> Priorities:
    """The word mixed, in place: what is hashed at each step should not ask for new memory nine times."""
    word ^= word >> _30
    word *= _FIRST
    word ^= word >> _27
    word *= _SECOND
    word ^= word >> _31
    return word


def _unshift(word: Priorities, by: int) -> Priorities:
    """The word whose xor with itself, shifted right by `by` (22 to 31), is `word`."""
    before: Priorities = word ^ (word >> np.uint64(by)) ^ (word >> np.uint64(2 * by))
    return before
