"""Gradient reversal: the same value forwards, the opposite gradient backwards.

Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015. arXiv:1409.7495
"""

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float = 1.0) -> Tensor:
    """`x`, whose gradient is -`strength` times what flows back.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> reverse(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000])
    """
    reversed_: Tensor = _Reversal.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_
