"""Permuted pixels: the same images in domain after domain, each with an order of pixels of its own.

Goodfellow et al., An Empirical Investigation of Catastrophic Forgetting, 2013. arXiv:1312.6211
"""

import torch
from torch import Tensor

from everlearn.batch import Batch, Column, Rows, tensor
from everlearn.data.hashing import mix as scrambled
from everlearn.data.hashing import name_id
from everlearn.data.rows import Around
from everlearn.randomness import mix
from everlearn.streams.arrivals import by_domain
from everlearn.streams.experience import Experience

BLACK = -1
"""In the place of a pixel: there is none, so it is black."""


def permuted(train: Rows, test: Rows, domains: int, *, seed: int = 0) -> list[Experience]:
    """Domain-incremental: the pixels of all images of domain k are reordered by permutation k, in training and test.

    All permutations are drawn here, from (`seed`, k) alone: more domains leave the earlier ones as they are. The
    first domain is permuted like the others. Pixels are permuted when they are taken; nothing is copied.

    >>> from everlearn.data import Columns
    >>> rows = Columns(x=torch.arange(8.0).view(2, 1, 2, 2), y=torch.tensor([0, 1]))
    >>> [experience.train.take(torch.tensor([0]))["x"].flatten().tolist() for experience in permuted(rows, rows, 2)]
    [[0.0, 2.0, 1.0, 3.0], [1.0, 3.0, 2.0, 0.0]]
    """
    pixels = tensor(train.take(torch.zeros(1, dtype=torch.int64)), "x")[0]
    count = pixels.shape[-2:].numel() if pixels.ndim > 1 else len(pixels)
    maps = [
        torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, domain))) for domain in range(domains)
    ]
    return by_domain(
        (Rearranged(train, where, name=f"permuted {seed} {k}"), Rearranged(test, where, name=f"permuted {seed} {k}"))
        for k, where in enumerate(maps)
    )


class Rearranged(Around):
    """Rows whose pixel i is what pixel `where[i]` was, or black where that is -1; the same for each channel.

    Images are (..., height, width), anything else (n, d). `where` is int64, one entry a pixel. An image in another
    arrangement is another row to whoever remembers rows, so ids become others, by `name`.
    """

    def __init__(self, rows: Rows, where: Tensor, *, name: str) -> None:
        self.rows, self.where, self.name = rows, where, name
        self._black = where == BLACK
        self._where = where.clamp(min=0)
        self._some_black = bool(self._black.any())

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`, rearranged."""
        batch = self.rows.take(index)
        return batch | {name: self._changed(name, batch[name]) for name in _CHANGED if name in batch}

    def column(self, name: str) -> Column:
        """The column's values; those of "x" are rearranged."""
        return self._changed(name, self.rows.column(name))

    def _changed(self, name: str, column: Column) -> Column:
        if name not in _CHANGED:
            return column
        values = tensor({name: column}, name)
        if name == "id":  # one bijection for each arrangement, its result made positive: as good as no collisions
            return scrambled(values ^ name_id(self.name)) & _POSITIVE
        flat = values.flatten(-2) if values.ndim > 2 else values
        moved = flat.index_select(-1, self._where.to(flat.device))
        if self._some_black:
            moved.masked_fill_(self._black.to(flat.device), 0)
        return moved.view_as(values)


_CHANGED = ("x", "id")
_POSITIVE = (1 << 63) - 1
