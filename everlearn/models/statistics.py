"""Statistics of classes that grow row by row and class by class, and what is solved from them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
