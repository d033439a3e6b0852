"""Inputs on one scale, by the mean and the variance of each column so far."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Standardise(nn.Module):
    """z = (x - mean) / deviation, by column; the variance is that of all rows counted, divided by their number.

    `forward` only scales, in every mode; `update` is what counts. Both are in float64, whatever the model is in. A
    column that never varied, or was never counted, becomes 0. What is missing (NaN) is not counted, and becomes 0:
    the mean. Columns can be left as they are (what says 0 or 1): they are not counted, and missing is 0 in them, too.
    With `scale=False` every column is left as it is, and what is missing becomes the mean. z is no further from 0 than
    `most`: a column that changes for the first time after n rows is sqrt(n) deviations from its mean, and squared
    errors, whose gradients have no bound, do not survive that.

    >>> scale = Standardise(1)
    >>> rows = scale.update(torch.tensor([[1.0], [3.0]]))
    >>> scale(torch.tensor([[4.0], [torch.nan]])).flatten()
    tensor([2., 0.])
    """

    count: Tensor
    """How many values each column had, (columns)."""
    mean: Tensor
    squares: Tensor
    """The sum of the squared differences from the mean."""
    factor: Tensor
    """1 / deviation; 0 where nothing varied, and 1 where a column is left as it is."""
    left: Tensor
    """1 for each column that is left as it is, and else 0."""

    def __init__(self, columns: int = 0, *, scale: bool = True, most: float = inf) -> None:
        super().__init__()
        self.scale, self.most = scale, most
        for name in _STATISTICS:
            self.register_buffer(name, torch.zeros(columns, dtype=torch.float64))

    @property
    def columns(self) -> int:
        """How many there are."""
        return len(self.mean)

    @property
    def statistics(self) -> list[Tensor]:
        """All of its buffers; without a walk through modules, as it is asked at each step."""
        return [each for each in self._buffers.values() if each is not None]

    def forward(self, x: Tensor) -> Tensor:
        """The rows, (rows, columns), scaled, in their own dtype."""
        if self.scale:
            scaled = (x - self.mean).mul_(self.factor)
            scaled.nan_to_num_(0.0, inf, -inf)
            return (scaled if self.most == inf else scaled.clamp_(-self.most, self.most)).to(x.dtype)
        return self.filled(x)

    def filled(self, x: Tensor) -> Tensor:
        """The rows as they are, with the mean in place of what is missing (NaN)."""
        return torch.where(x.isnan(), self.mean.to(x.dtype), x)

    def update(self, x: Tensor) -> Tensor:
        """Counts rows, (rows, columns), as if they came one by one; gives them with the mean in place of NaN.

        By the recurrence of Welford (1962); of several rows, the parts are joined as Chan, Golub and LeVeque (1983) do.
        """
        x = x.to(self.mean.device)  # rows come from where they were read
        if len(x) == 1 and x.is_cpu:  # numpy is several times as quick where there is so little to do
            count, mean, squares, factor, left = (each.numpy() for each in self.statistics)
            (row,) = x.numpy()
            if not isnan(row.sum()):
                count += 1
                away = (row - mean) * (1 - left)
                mean += away / count
                squares += away * (row - mean)
                np.copyto(factor, left)
                np.sqrt(np.divide(count, squares, out=factor, where=squares > 0), out=factor)
                return x
        if len(x):
            self._join(x.to(self.mean))
        return self.filled(x)

    @torch.no_grad()
    def _join(self, rows: Tensor) -> None:
        known = ~rows.isnan()
        count = known.sum(0)
        # Differences from a value that was there: those of equal values are 0, and not what rounding leaves of a mean.
        first = rows.nan_to_num(0.0).gather(0, known.int().argmax(0, keepdim=True))[0]
        centre = torch.where(self.count > 0, self.mean, first) * (1 - self.left)
        away = torch.where(known, rows - centre, 0.0) * (1 - self.left)
        mean, total = away.sum(0) / count.clamp(min=1), (self.count + count).clamp(min=1)
        self.squares += (torch.where(known, away - mean, 0.0) * (1 - self.left)).square().sum(0)
        self.squares += torch.where(self.count > 0, mean, 0.0).square() * self.count * count / total
        self.mean.copy_(centre + mean * torch.where(self.count > 0, count / total, 1.0))
        self.count += count
        torch.where(self.squares > 0, (self.count / self.squares).sqrt_(), self.left, out=self.factor)

    def grow(self, left: Sequence[bool]) -> None:
        """Adds columns, one for each entry, behind those there are; True: it is left as it is."""
        more = torch.tensor(left, dtype=torch.float64, device=self.mean.device)
        for name in _STATISTICS:
            fresh = more if name in {"left", "factor"} else torch.zeros_like(more)
            self._buffers[name] = torch.cat([self.get_buffer(name), fresh])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Standardise":  # noqa: ARG002
        device = fn(torch.empty(0, device=self.mean.device)).device
        for name in _STATISTICS:  # in float64, whatever the model becomes
            self._buffers[name] = self.get_buffer(name).to(device)
        return self

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in _STATISTICS:
            saved = state.get(prefix + name)
            if isinstance(saved, Tensor):
                own = self.get_buffer(name)
                self._buffers[name] = F.pad(own, (0, len(saved) - len(own)))
        super()._load_from_state_dict(state, prefix, *rest)

    def extra_repr(self) -> str:
        """What it is."""
        return f"{self.columns}{'' if self.scale else ', scale=False'}"


_STATISTICS = ("count", "mean", "squares", "factor", "left")
