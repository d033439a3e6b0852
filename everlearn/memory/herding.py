"""Herding: which rows, taken together, have nearly the mean of all."""

import torch
from torch import Tensor


@torch.no_grad()
def herd(features: Tensor, count: int, towards: Tensor | None = None) -> Tensor:
    """The positions, (count,) int64 on the CPU, of rows whose mean is near that of `features`, (n, width).

    Each in turn is the one that brings the mean of those chosen so far, itself included, closest to the mean: so the
    first m of them are the choice of m, and a smaller memory keeps the first. No row is chosen twice; if there are
    fewer than `count`, all are. `towards`, (width,), is approached in place of the mean.

    Welling, Herding Dynamical Weights to Learn, ICML 2009; for exemplars: Rebuffi et al., iCaRL, CVPR 2017,
    arXiv:1611.07725, algorithm 4, which has features of length 1.

    >>> herd(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
    tensor([2, 1, 3])
    """
    if features.dim() != 2:
        raise ValueError(f"features are one vector per row, (n, width), but have shape {tuple(features.shape)}")
    if count < 0:
        raise ValueError(f"count must be at least 0, but is {count}")
    # Sums of many rows and small differences: the same choice on every device, whatever the precision of the features.
    features = features.cpu().double()
    if not bool(features.isfinite().all()):
        raise ValueError("the features hold values that are not finite, so no row is near their mean")
    away = features - (features.mean(0) if towards is None else towards.cpu().double())
    chosen = torch.empty(min(count, len(away)), dtype=torch.int64)
    length = away.square().sum(1)  # infinite once a row is chosen
    total = torch.zeros(away.shape[1], dtype=torch.float64)
    for place in range(len(chosen)):
        best = (length + 2 * (away @ total)).argmin()  # |total + a|^2 = |a|^2 + 2 a total + what all rows share
        chosen[place] = best
        total += away[best]
        length[best] = torch.inf
    return chosen
