"""A bottom-k sample over groups: which ids are kept, and in which slot each lies."""

from bisect import bisect_left
from collections.abc import Iterable
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everlearn.memory.priority import Ids, Priorities, identities, priorities, stream

Indices = NDArray[np.int64]
Small = NDArray[np.int32]

_UNBOUNDED = np.uint64(2**64 - 1)

_WAITING = 1000
"""Offers that may wait: each takes some hundred bytes, even if it is of a single id."""


class Run(NamedTuple):
    """Some of the ids that are kept: their priorities, slots and groups. One with the slot -1 has left."""

    priorities: Priorities
    slots: Small
    groups: Small

    @classmethod
    def empty(cls) -> "Run":
        """A run of none."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32))

    def pick(self, which: NDArray[Any]) -> "Run":
        """Those that `which` picks, a mask or positions."""
        return Run(self.priorities[which], self.slots[which], self.groups[which])

    def join(self, *others: "Run") -> "Run":
        """These, then the others."""
        return Run(*map(np.concatenate, zip(self, *others, strict=True)))


class BottomK:
    """Of all ids offered, those with the `capacity` smallest keys: (rank by priority in the group, priority).

    With one group that is the bottom-k sketch of Cohen and Kaplan ("Summarizing data using bottom-k
    sketches", 2007): a uniform sample, without replacement, of the distinct ids, whatever their order and
    however often each came. With several groups, the places fill up like connected vessels: groups have as
    many places as the largest, or as they have ids; and each keeps those with the smallest priorities, a
    uniform sample of it.

    Whoever is out is out for good, since more ids can only raise a rank. So per group one number turns away
    whatever cannot enter: its bound, the smallest priority that ever left it.

    Nearly all that is kept lies in one long, sorted run. Newcomers collect in a short one, which is merged
    into the long one now and then: an offer costs about the square root of the capacity, and not the
    capacity.
    """

    ROW_BYTES = 20
    """What keeping one id costs: 8 bytes for its priority, 4 each for its slot, group and place in the group."""

    LARGEST = 2**31 - 1
    """The largest capacity."""

    def __init__(self, seed: int) -> None:
        self.capacity = 0
        self.count = 0
        self._key = stream(seed)
        self._labels = np.empty(0, np.int64)  # of the groups, in the order of their first appearance
        self._bounds = np.empty(0, np.uint64)  # of the groups, in the same order
        self._forgotten = np.empty(0, np.uint64)  # sorted
        self._fresh = Run.empty()
        self._waiting: list[Run] = []
        self._asked: tuple[Ids, Priorities, Indices] | None = None  # what `find` found last, of which ids
        self._sort_labels()
        self._settle(Run.empty())

    def offer(self, ids: Ids, labels: Ids | None, *, new: bool = False) -> tuple[Indices, Indices]:
        """Decides about ids, (n,) int64, whose groups have these labels, (n,) int64 (None: all are of one).

        Returns the positions in `ids` of those to keep, ascending, and their slots, ascending; what lay in
        those slots before has left. The slots in use are always 0 ... count - 1. `new` says that the ids are
        distinct, and were never offered before.
        """
        asked, self._asked = self._asked, None
        slots: Indices | None = None
        if asked is not None and asked[0] is ids:
            _, hashed, slots = asked
        else:
            hashed = priorities(ids, self._key)
        if labels is None and not self._labels.size:
            labels = np.zeros(len(ids), np.int64)
        groups = None if labels is None else self._group(labels)  # None: all are of the one that there is
        rows = (hashed < (self._bounds[0] if groups is None else self._bounds[groups])).nonzero()[0]
        self._nameless |= new
        if not new or self._forgotten.size:
            rows = self._unknown(rows, hashed, slots)
        if not rows.size:
            return rows, rows
        if len(self._labels) == 1 and self.count == self.capacity:
            return self._replace(rows, hashed[rows])
        entering = np.zeros(len(rows), np.int32) if groups is None else groups[rows]
        if self.count + len(rows) <= self.capacity:
            slots = np.arange(self.count, self.count + len(rows))
            self._waiting.append(Run(hashed[rows], slots.astype(np.int32), entering))
            self.count += len(rows)
            if len(self._recent) > self._short:
                self._settle(self._all())
            elif len(self._waiting) > _WAITING:
                self._catch_up()
            return rows, slots
        # A newcomer has no slot yet: until it has survived, it carries its position in `ids`, below -1.
        self._waiting.append(Run(hashed[rows], (-2 - rows).astype(np.int32), entering))
        freed = self._overflow()
        placed = (self._fresh.slots < 0).nonzero()[0]  # in the order of their positions
        rows = -2 - self._fresh.slots[placed].astype(np.int64)
        slots = np.concatenate([freed, np.arange(self.count, self.capacity)])
        self._fresh.slots[placed] = slots
        self.count = self.capacity
        if len(self._fresh.slots) > self._short:
            self._settle(self._all())
        return rows, slots

    def find(self, ids: Ids) -> tuple[Indices, Indices]:
        """The positions in `ids`, (n,) int64, of those that are kept, and their slots; of repeated ids the last."""
        hashed = priorities(ids, self._key)
        slots = np.full(len(ids), -1, np.int64)
        self._asked = ids, hashed, slots  # they will be offered next
        runs = [self._base]
        if self._nameless or not self._recent.isdisjoint(hashed.tolist()):
            fresh = self._catch_up()
            runs.append(fresh.pick(fresh.priorities.argsort()))
        for run in runs:
            place = _found(hashed, run.priorities)
            known = place >= 0
            if np.count_nonzero(known):
                slots[known] = np.maximum(slots[known], run.slots[place[known]])
        rows = (slots >= 0).nonzero()[0]
        if not rows.size:
            return rows, rows
        rows = rows[slots[rows].argsort(kind="stable")]
        found = slots[rows]
        repeated = found[1:] == found[:-1]
        if np.count_nonzero(repeated):
            last = np.append(~repeated, True)
            rows, found = rows[last], found[last]
        return rows, found

    def regroup(self, slots: Indices, labels: Ids) -> None:
        """Moves the ids in these slots to the groups with these labels, (n,) each.

        They stay, even where a group has turned away smaller priorities; then they are the first of it to leave.
        """
        groups, kept = self._group(labels), self._all()
        kept.groups[kept.slots.argsort()[slots]] = groups
        self._settle(kept)

    def forget(self, ids: Ids) -> tuple[int, Indices, Indices]:
        """Removes ids, and turns them away for good.

        Returns how many were kept, and from which slots rows have to move to which, so that no slot stays
        empty.
        """
        hashed = np.unique(priorities(ids, self._key))
        self._forgotten = np.union1d(self._forgotten, hashed)
        kept = self._all()
        gone = np.isin(kept.priorities, hashed, assume_unique=True)
        holes = np.sort(kept.slots[gone])
        kept = kept.pick(~gone)
        count = self.count - len(holes)
        sources = np.sort(kept.slots[kept.slots >= count])
        targets = holes[holes < count]
        moved = np.arange(self.count, dtype=np.int32)
        moved[sources] = targets
        self.count = count
        self._settle(kept._replace(slots=moved[kept.slots]))
        return len(holes), sources.astype(np.int64), targets.astype(np.int64)

    @property
    def ids(self) -> Ids:
        """The kept ids in the order of their slots, (count,) int64."""
        kept = self._all()
        ids = np.empty(self.count, np.int64)
        ids[kept.slots] = identities(kept.priorities, self._key)
        return ids

    def state_dict(self) -> dict[str, Any]:
        """All that decides about the future, as tensors and numbers."""
        kept = self._all()
        arrays = {
            **kept._asdict(),
            "labels": self._labels,
            "bounds": self._bounds,
            "forgotten": self._forgotten,
        }
        return {"capacity": self.capacity, **{name: _tensor(array) for name, array in arrays.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        array = {name: value.cpu().numpy().copy() for name, value in state.items() if name != "capacity"}
        self.capacity = state["capacity"]
        self._labels, self._bounds = array["labels"], array["bounds"].view(np.uint64)
        self._forgotten = array["forgotten"].view(np.uint64)
        self._sort_labels()
        self.count = len(array["slots"])
        self._settle(Run(array["priorities"].view(np.uint64), array["slots"], array["groups"]))

    @property
    def _short(self) -> int:
        """How many newcomers the short run takes."""
        return 16 * isqrt(self.capacity)

    def _catch_up(self) -> Run:
        """The short run, with those that wait for it."""
        if self._waiting:
            self._fresh = self._fresh.join(*self._waiting)
            self._waiting = []
        return self._fresh

    def _all(self) -> Run:
        """All that is kept, sorted."""
        fresh, left = self._catch_up(), self._base.slots >= 0
        # A stable sort finds the part that is sorted, and merges the rest into it.
        order = np.concatenate([self._base.priorities[left], fresh.priorities]).argsort(kind="stable")
        pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(self._base, fresh, strict=True)
        return Run(*(np.concatenate([old[left], new])[order] for old, new in pairs))

    def _settle(self, kept: Run) -> None:
        """Makes `kept`, which is sorted, the long run, and starts an empty short one."""
        self._base, self._fresh, self._waiting = kept, Run.empty(), []
        self._recent: set[int] = set()  # priorities that entered the short run, unless they came as new
        self._nameless = False  # whether some did
        # Places in the long run, by group and then by priority; numpy sorts small integers by radix, faster.
        self._by_group = (
            kept.groups.astype(np.min_scalar_type(len(self._labels))).argsort(kind="stable").astype(np.int32)
        )
        self._sizes = np.bincount(kept.groups, minlength=len(self._labels))  # of each group in the run, now
        self._starts = self._sizes.cumsum() - self._sizes

    def _unknown(self, rows: Indices, hashed: Priorities, slots: Indices | None) -> Indices:
        """Those of the rows that are neither repeated, nor kept already (in `slots`, if known), nor forgotten."""
        if slots is not None:
            rows = rows[slots[rows] < 0]
        wanted = hashed[rows]
        distinct = set(wanted.tolist())
        if len(distinct) < len(rows) or (slots is None and not self._recent.isdisjoint(distinct)):
            first = np.sort(np.unique(wanted, return_index=True)[1])
            rows = rows[first][~np.isin(wanted[first], self._catch_up().priorities)]
            wanted = hashed[rows]
        known = np.zeros(len(rows), np.bool_)
        if slots is None:
            place = _found(wanted, self._base.priorities)
            known = place >= 0
            if np.count_nonzero(known):  # `any` takes several times as long, on few
                known[known] = self._base.slots[place[known]] >= 0
        if self._forgotten.size:
            known |= _found(wanted, self._forgotten) >= 0
        if np.count_nonzero(known):
            rows, wanted = rows[~known], wanted[~known]
        self._recent.update(wanted.tolist())
        return rows

    def _group(self, labels: Ids) -> Small:
        """The group of each label; a label never seen before founds one."""
        place = _found(labels, self._alphabet)
        if place.min() >= 0:
            return self._by_label[place]
        founded = np.unique(labels[place < 0])
        self._labels = np.concatenate([self._labels, founded])
        self._bounds = np.concatenate([self._bounds, np.full(len(founded), _UNBOUNDED)])
        self._sizes = np.concatenate([self._sizes, np.zeros(len(founded), np.int64)])
        self._starts = np.concatenate([self._starts, np.full(len(founded), len(self._base.slots))])
        self._sort_labels()
        return self._group(labels)

    def _sort_labels(self) -> None:
        self._by_label = np.argsort(self._labels).astype(np.int32)
        self._alphabet = self._labels[self._by_label]

    def _overflow(self) -> Indices:
        """Lets as many leave as are too many, those with the largest keys; returns their slots, ascending."""
        fresh = self._catch_up()
        old, young = self._last() if len(self._labels) == 1 else self._last_of_groups()
        slots = np.concatenate([self._base.slots[old], fresh.slots[young]])
        self._base.slots[old] = -1
        self._sizes -= np.bincount(self._base.groups[old], minlength=len(self._labels))
        stay = np.ones(len(fresh.slots), np.bool_)
        stay[young] = False
        self._fresh = fresh.pick(stay)
        return np.sort(slots[slots >= 0]).astype(np.int64)

    def _replace(self, rows: Indices, hashed: Priorities) -> tuple[Indices, Indices]:
        """`offer`, for rows that may enter, if there is but one group and all slots are in use.

        What a learner does at each step, so it asks numpy for little: the long run loses from its end only.
        """
        fresh, base, size = self._catch_up(), self._base, int(self._sizes[0])
        last = base.priorities[max(size - len(rows), 0) : size]
        both = np.concatenate([last, fresh.priorities, hashed])
        out = both.argpartition(-len(rows))[-len(rows) :]
        self._bounds[0] = min(self._bounds[0], both[out[0]])  # the one that a partition puts in its place
        out.sort()
        places = out.tolist()
        first = bisect_left(places, len(last))
        second = bisect_left(places, len(both) - len(rows), first)
        left, slots, young = size - first, fresh.slots, both[len(last) :]
        freed = np.concatenate([base.slots[left:size], slots[out[first:second] - len(last)]])
        freed.sort()
        base.slots[left:size] = -1
        self._sizes[0] = left
        if first < len(out):  # not only from the long run
            stay = np.ones(len(young), np.bool_)
            stay[out[first:] - len(last)] = False
            young, slots, rows = young[stay], slots[stay[: len(slots)]], rows[stay[len(slots) :]]
        self._fresh = Run(young, np.concatenate([slots, freed]), np.zeros(len(young), np.int32))
        if len(self._fresh.slots) > self._short:
            self._settle(self._all())
        return rows, freed.astype(np.int64)

    def _last(self) -> tuple[Small, Indices]:
        """The places of those that leave if there is but one group, in the long run and in the short one."""
        fresh, size = self._fresh, int(self._sizes[0])
        over = size + len(fresh.slots) - self.capacity
        tail = self._by_group[max(size - over, 0) : size]
        floor = self._base.priorities[tail[0]] if over <= size else np.uint64(0)
        near = (fresh.priorities >= floor).nonzero()[0]
        hashed = np.concatenate([self._base.priorities[tail], fresh.priorities[near]])
        out = hashed.argpartition(len(hashed) - over)[len(hashed) - over :]
        self._bounds[0] = min(self._bounds[0], hashed[out].min())
        return tail[out[out < len(tail)]], near[out[out >= len(tail)] - len(tail)]

    def _last_of_groups(self) -> tuple[Small, Indices]:
        """The same for several groups."""
        fresh = self._fresh
        sizes = self._sizes + np.bincount(fresh.groups, minlength=len(self._labels))
        level, spare = _waterline(sizes, self.capacity)
        over = np.maximum(sizes - level, 0)  # rows of this rank or above, of each group

        # The last `over` rows of a group are among the last `over` of its part of the long run, and those of
        # the short run that are not before them.
        reach = np.minimum(over, self._sizes)
        first = self._starts + self._sizes - reach
        tail = self._by_group[_ranges(first, reach)]
        floor = np.full(len(over), _UNBOUNDED)
        floor[over > self._sizes] = 0
        inside = ((over > 0) & (over <= self._sizes)).nonzero()[0]
        floor[inside] = self._base.priorities[self._by_group[first[inside]]]
        near = (fresh.priorities >= floor[fresh.groups]).nonzero()[0]

        hashed = np.concatenate([self._base.priorities[tail], fresh.priorities[near]])
        groups = np.concatenate([self._base.groups[tail], fresh.groups[near]])
        order = np.lexsort((hashed, groups))
        end = np.bincount(groups, minlength=len(over)).cumsum()
        from_end = end[groups[order]] - np.arange(len(order))
        limit = over[groups[order]]
        above = order[from_end < limit]
        at_level = order[from_end == limit]
        at_level = at_level[hashed[at_level].argsort()][spare:]
        out = np.concatenate([above, at_level])

        np.minimum.at(self._bounds, groups[out], hashed[out])
        return tail[out[out < len(tail)]], near[out[out >= len(tail)] - len(tail)]


def _found(wanted: NDArray[Any], among: NDArray[Any]) -> Indices:
    """The place of each wanted number among sorted, distinct ones, or -1 where it is not there."""
    if not among.size:
        return np.full(len(wanted), -1)
    at: Indices = np.minimum(among.searchsorted(wanted), len(among) - 1)
    at[among[at] != wanted] = -1
    return at


def _waterline(sizes: Indices, capacity: int) -> tuple[int, int]:
    """The largest level at which min(sizes, level) sums up to at most `capacity`, and what that leaves over.

    The sizes sum up to more than the capacity.

    >>> _waterline(np.array([5, 1, 9]), 8)
    (3, 1)
    """
    rising = np.sort(sizes)
    below = rising.cumsum() - rising
    above = len(sizes) - np.arange(len(sizes))
    first = int((below + above * rising > capacity).argmax())
    level, spare = divmod(capacity - int(below[first]), int(above[first]))
    return level, spare


def _ranges(starts: Indices, lengths: Indices) -> Indices:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), then those from starts[1], and so on."""
    ends = lengths.cumsum()
    places: Indices = np.arange(ends[-1]) + (starts - ends + lengths).repeat(lengths)
    return places


def _tensor(array: NDArray[Any]) -> Tensor:
    # Files of tensors know few unsigned types.
    return torch.from_numpy((array.view(np.int64) if array.dtype == np.uint64 else array).copy())
