"""Exemplars: the rows of a class that stand for it, in the order in which they were chosen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, Rows, join, length, take, tensor
from everlearn.data.order import batches, epoch_order
from everlearn.memory.herding import herd

Describe = Callable[[Batch], Tensor]
"""From rows to their features, (rows, width), of length 1."""


class Exemplars:
    """Some rows of each class, herded to the direction of the mean of its features, so that fewer are the first ones.

    `rows` holds them by class, with their columns "y" and "id", as they were in the data; `classes` ascend.
    """

    def __init__(self) -> None:
        self.rows: Batch = {}
        self.classes: list[int] = []
        self.new = 0
        """New rows in a pass."""
        self.learned = 0
        """New rows learned since the walk began."""
        self.drawn = 0

    def __len__(self) -> int:
        return length(self.rows)

    def of(self, label: int) -> Batch:
        """Those of one class, in the order of their choice; {} if there are none."""
        return take(self.rows, tensor(self.rows, "y") == label) if label in self.classes else {}

    def choose(self, rows: Rows, count: int, describe: Describe, first_id: int) -> None:
        """Chooses `count` of each class in `rows`, and keeps the first `count` of the others.

        A class with fewer rows has all of them. Candidates of a class that comes back are its new rows and those
        kept, but none twice. Rows without a column "id" get `first_id` plus their position.
        """
        y = torch.as_tensor(rows.column("y")).cpu()
        found = {c: self.of(c) for c in self.classes}
        for c in torch.unique(y[y != UNLABELED]).tolist():
            index = (y == c).nonzero().flatten()
            found[c] = _herded(found.get(c, {}), rows, index, count, describe=describe, first_id=first_id)
        self.classes = sorted(found)
        self.rows = join(*(take(found[c], slice(count)) for c in self.classes))

    def restart(self, new: int) -> None:
        """Begins a walk over all in random order, beside passes over `new` rows."""
        self.new, self.learned, self.drawn = new, 0, 0

    def beside(self, rows: int, count: int | None = None, seed: int = 0) -> Batch:
        """The next `count` of the walk, for a batch of new rows; or its share, so that each comes once in a pass."""
        self.learned += rows
        first, size = self.drawn, len(self)
        self.drawn = first + count if count is not None else max(first, self.learned * size // self.new)
        laps = range(first // size, max(first, self.drawn - 1) // size + 1)
        walk = torch.cat([epoch_order(size, seed, 0, lap) for lap in laps])
        return take(self.rows, walk[first - laps[0] * size :][: self.drawn - first])

    def state_dict(self) -> dict[str, Any]:
        """The rows, and the place in the walk."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        vars(self).update(state)


def _herded(kept: Batch, rows: Rows, index: Tensor, count: int, *, describe: Describe, first_id: int) -> Batch:
    """The first `count` among the `rows` at `index` and those `kept`; never are more than 128 others in memory."""
    features, ids = [], []
    for batch in batches(rows, index, 128, first_id=first_id):
        features.append(describe(batch))
        ids.append(tensor(batch, "id"))
    if kept:
        kept = take(kept, ~torch.isin(tensor(kept, "id").cpu(), torch.cat(ids).cpu()))
        features.append(describe(kept))
    every = torch.cat(features)
    picked = herd(every, count, F.normalize(every.mean(0), dim=0))
    new = picked < len(index)
    found = list(batches(rows, index[picked[new]], 128, first_id=first_id))
    if kept:
        found.append(take(kept, picked[~new] - len(index)))
    return take(join(*found), torch.cat([new.nonzero(), (~new).nonzero()]).flatten().argsort())
