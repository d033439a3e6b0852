"""A stratified sample of labelled rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from everlearn.batch import UNLABELED


def stratified(y: Tensor, most: int, seed: int = 0, names: Sequence[str] = ()) -> Tensor:
    """At most `most` positions of labelled rows, in order: of each class its share, and at least two.

    Which ones is a function of `seed` and the labels. `names` are what errors call the classes.

    >>> stratified(torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, -100]), 5, seed=0)
    tensor([0, 1, 3, 4, 7])
    """
    known = (y != UNLABELED).nonzero().flatten()
    present, place, counts = torch.unique(y[known], return_inverse=True, return_counts=True)
    if len(present) < 2:
        there = "one class" if len(present) else "no class"
        raise ValueError(
            f"the {len(known)} labelled rows are of {there}, so nothing can be told apart; give rows of at least two"
        )
    if int(counts.min()) < 2:
        one = int(present[counts.argmin()])
        raise ValueError(
            f"class {names[one] if names else one} has 1 row, but a score needs at least 2 rows of each class; add "
            "some, or leave the class out"
        )
    if len(known) <= most:
        return known
    if most < 2 * len(present):
        raise ValueError(
            f"{most} rows are fewer than 2 for each of the {len(present)} classes; look at {2 * len(present)} or more"
        )
    quota = _quotas(counts, most)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    order = order[place[order].argsort(stable=True)]  # class by class, each in a random order
    first = counts.cumsum(0) - counts
    within = torch.arange(len(known)) - first.repeat_interleave(counts)
    return known[order[within < quota.repeat_interleave(counts)]].sort().values


def _quotas(counts: Tensor, most: int) -> Tensor:
    """How many rows of each class are looked at, `most` in all: two each, the others in proportion to what is left."""
    spare = counts - 2
    exact = spare * ((most - 2 * len(counts)) / int(spare.sum()))
    quota = exact.floor().long()
    short = most - 2 * len(counts) - int(quota.sum())
    quota[(quota - exact).argsort(stable=True)[:short]] += 1  # the largest remainders
    return quota + 2
