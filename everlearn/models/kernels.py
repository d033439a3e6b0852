"""Gaussian kernels between rows, and what they say of two samples: the maximum mean discrepancy.

Gretton et al., A Kernel Two-Sample Test, JMLR 2012; several kernels: Long et al., 2015. arXiv:1502.02791
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCALES = tuple(2.0**k for k in range(-3, 2))
"""What the mean squared distance is multiplied with for the variances of five kernels."""


def squared_distances(x: Tensor) -> Tensor:
    """Those between all rows, (rows, rows), never below 0; exactly 0 from a row to itself."""
    x = x - x.detach().mean(0)  # which changes no distance, and keeps the digits of small ones
    squares = x.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=0)
    return apart.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)


def gaussian(x: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    """The mean of kernels exp(-||x_i - x_j||^2 / (2 s sigma^2)), one for each scale s, (rows, rows).

    sigma^2 is the mean squared distance of two different rows, a constant to the gradient.
    """
    apart = squared_distances(x)
    variance = apart.detach().sum() / max(len(x) * (len(x) - 1), 1)
    least = torch.finfo(x.dtype).eps * x.detach().square().sum(1).mean() + 1e-30  # rows may be all the same
    variance = torch.maximum(variance, least)
    return torch.stack([(-apart / (2 * scale * variance)).exp() for scale in scales]).mean(0)


def discrepancy(kernel: Tensor, first: int) -> Tensor:
    """MMD^2 between the first rows and the others, by their kernel: E k(s, s') + E k(t, t') - 2 E k(s, t).

    Each mean is over the pairs of different rows, so the estimate is unbiased and may be below 0; where a side is one
    row, over that row with itself. The sides may be of any sizes.

    >>> discrepancy(torch.ones(5, 5), 2)
    tensor(0.)
    """
    mine, theirs = kernel[:first, :first], kernel[first:, first:]
    return _within(mine) + _within(theirs) - 2 * kernel[:first, first:].mean()


def _within(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1)) if count > 1 else kernel.mean()
