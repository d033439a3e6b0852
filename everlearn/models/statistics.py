"""Statistics of classes that grow row by row and class by class, and what is solved from them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Solution = tuple[Tensor, ...]


class Derived:
    """What is solved from statistics: computed when it is first asked for, and again when they have changed.

    It is no state: the same statistics give the same bits, so a checkpoint holds nothing of it, and to keep it
    from one prediction to the next changes no answer.
    """

    def __init__(self) -> None:
        self._value: Solution | None = None

    def value(self, solve: Callable[[], Solution]) -> Solution:
        """What `solve` gives, or gave since the last `clear`."""
        if self._value is None:
            self._value = solve()
        return self._value

    def clear(self) -> None:
        """The statistics have changed."""
        self._value = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, _: dict[str, Any], /) -> None:
        """Others have come in the place of the statistics."""
        self.clear()


def widened(old: Tensor, shape: Sequence[int]) -> Tensor:
    """`old` in the corner of a tensor of zeros of the shape `shape`, which is nowhere smaller.

    >>> widened(torch.ones(1, 2), (2, 3))
    tensor([[1., 1., 0.],
            [0., 0., 0.]])
    """
    if old.shape == torch.Size(shape):
        return old
    new = old.new_zeros(*shape)
    new[tuple(map(slice, old.shape))] = old
    return new


def roomier(counts: Tensor, sums: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The counts (classes) and sums (classes, width) with room for the classes `y` of features `h`, (rows, width)."""
    shape = max(len(counts), int(y.max()) + 1), h.shape[1]
    if len(counts) and h.shape[1] != (width := sums.shape[1]):
        raise ValueError(f"the features have {h.shape[1]} numbers, but those counted before had {width}")
    return widened(counts.to(y), shape[:1]), widened(sums.to(h), shape)


def of_those_met(scores: Tensor, counts: Tensor, outputs: int) -> Tensor:
    """The scores, (rows, classes), as float32, -inf for classes without a row: for `outputs` classes at the least."""
    scores = scores.masked_fill(counts == 0, -torch.inf).float()
    return F.pad(scores, (0, max(0, outputs - scores.shape[1])), value=-torch.inf)


def deviations(h: Tensor, y: Tensor, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each row of a class differs by from the mean of all rows of its class before it, as if they came one by one.

    `h` is (rows, width), `y` (rows) the classes; `counts` (classes) and `sums` (classes, width) are of the rows
    before the batch. Gives the differences, the number of rows that each mean is of (0: the mean is 0), both sorted
    by class, and the positions in the batch that they belong to.

    With a row's difference d from the mean of the c rows before it, sum c / (c + 1) d d^T is the scatter of the class
    about its mean (Welford, 1962): whatever the order of the rows and the size of the batches.
    """
    order = y.argsort(stable=True)
    h, y = h[order], y[order]
    arrived = torch.bincount(y, minlength=len(counts))
    first = (arrived.cumsum(0) - arrived)[y]
    earlier = h.cumsum(0) - h
    before = (counts[y] + torch.arange(len(y), device=y.device) - first).to(h)  # whole numbers divide as float32
    mean = (sums[y] + earlier - earlier[first]) / before.clamp(min=1).unsqueeze(1)
    return h - mean, before, order


def centred(h: Tensor, y: Tensor, new: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
    """Differences d, (rows, width), whose sum of d d^T is what the rows add to the scatter about the means of classes.

    So it is that of c / (c + 1) d d^T over `deviations`, whose arguments these are, at once; `new` is the sums of these
    rows, (classes, width). Of b rows of a class with the mean m, after c rows with the mean mu, each row's difference
    is from m + sqrt(c / (b + c)) (mu - m). That adds b c / (b + c) (m - mu) (m - mu)^T to the scatter about m (Chan,
    Golub and LeVeque, 1983).
    """
    now, before = torch.bincount(y, minlength=len(counts)).to(h), counts.to(h)
    here = new / now.clamp(min=1).unsqueeze(1)
    there = sums / before.clamp(min=1).unsqueeze(1)
    share = (before / (before + now).clamp(min=1)).sqrt()
    centres = here.lerp(there, share.unsqueeze(1)).index_select(0, y)
    return torch.sub(h, centres, out=centres)


def solve_definite(matrix: Tensor, right: Tensor, way_out: str) -> Tensor:
    """The solution X of `matrix` X = `right` by Cholesky; a ValueError with `way_out` if the matrix has none."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        raise ValueError(f"the system of {len(matrix)} equations is singular to machine precision; {way_out}")
    return torch.cholesky_solve(right, factor)


def best_strength(gram: Tensor, cross: Tensor, held_gram: Tensor, held_cross: Tensor) -> float:
    """The lambda with which some rows, of G = `gram` and C^T = `cross`, predict those held out best.

    No row h is needed: |Y - H W|^2 = |Y|^2 - 2 tr W^T H^T Y + tr W^T H^T H W. Nor a solution for each lambda: with
    G = V S V^T, W = V (S + lambda I)^-1 V^T C.
    """
    values, vectors = torch.linalg.eigh(gram)
    along = vectors.T @ cross.T
    errors = []
    for strength in STRENGTHS:
        weight = vectors @ (along / (values.clamp(min=0) + strength).unsqueeze(1))
        errors.append((weight * (held_gram @ weight - 2 * held_cross.T)).sum())
    return STRENGTHS[int(torch.stack(errors).argmin())]


STRENGTHS = [10.0**power for power in range(-8, 9)]
