"""What a memory keeps, said once more without cleverness: row by row, with a full sort each time."""

import numpy as np

from everlearn.memory.priority import priorities, stream


def hashes(ids, seed):
    return dict(zip(ids, priorities(np.array(ids, np.int64), stream(seed)).tolist(), strict=True))


def keys(hashed, group_of):
    """(rank within the group by priority, priority) of each id."""
    ranks, found = {}, {}
    for id_ in sorted(hashed, key=hashed.get):
        ranks[id_] = found.get(group_of(id_), 0)
        found[group_of(id_)] = ranks[id_] + 1
    return {id_: (ranks[id_], hashed[id_]) for id_ in hashed}


def smallest(ids, capacity, seed, group_of=lambda _: 0):
    """The ids to keep of a set of ids, none of which was forgotten."""
    key = keys(hashes(sorted(set(ids)), seed), group_of)
    return set(sorted(key, key=key.get)[:capacity])


class Reference:
    """A memory that looks at one id at a time."""

    def __init__(self, capacity, seed, group_of=lambda _: 0):
        self.capacity, self.seed, self.group_of = capacity, seed, group_of
        self.kept, self.bounds, self.forgotten = {}, {}, set()

    def add(self, ids):
        for id_, hashed in ((id_, hashes([id_], self.seed)[id_]) for id_ in ids):
            group = self.group_of(id_)
            if id_ in self.kept or id_ in self.forgotten or hashed >= self.bounds.get(group, 2**64):
                continue
            self.kept[id_] = hashed
            if len(self.kept) > self.capacity:
                key = keys(self.kept, self.group_of)
                out = max(key, key=key.get)
                self.bounds[self.group_of(out)] = self.kept.pop(out)

    def forget(self, ids):
        self.forgotten |= set(ids)
        gone = self.kept.keys() & set(ids)
        for id_ in gone:
            del self.kept[id_]
        return len(gone)
