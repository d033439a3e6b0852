"""A quadratic pull of weights towards an anchor: what EWC, SI and their kin add to the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from everlearn.models.views import Weights


def pull(weights: Mapping[str, Tensor], anchor: Weights, importance: Weights, strength: float) -> Tensor:
    """Strength / 2 * sum_i importance_i (weight_i - anchor_i)^2, a scalar whose gradient costs two passes.

    A weight that has no importance is free; one that has some has an anchor, and both have its shape.
    """
    names = [name for name in weights if name in importance]
    if not names:
        return torch.zeros(())
    value: Tensor = _Pull.apply(  # type: ignore[no-untyped-call]
        strength, [anchor[n] for n in names], [importance[n] for n in names], *(weights[n] for n in names)
    )
    return value


class _Pull(torch.autograd.Function):
    """Forward and backward share one difference: no graph of small operations is built at every step.

    For first derivatives only: to a second one the gradient is a constant.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, strength: float, anchor: list[Tensor], importance: list[Tensor], *weights: Tensor
    ) -> Tensor:
        away = torch._foreach_sub(list(weights), anchor)  # noqa: SLF001 (the only name of a public technique)
        force = torch._foreach_mul(away, importance)  # noqa: SLF001
        ctx.save_for_backward(*force)
        ctx.strength = strength  # type: ignore[attr-defined]
        return strength / 2 * torch.stack([_dot(a, f) for a, f in zip(away, force, strict=True)]).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        grads = torch._foreach_mul(list(ctx.saved_tensors), upstream[0] * ctx.strength)  # noqa: SLF001
        return (None, None, None, *grads)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    first = first.to(second.dtype)  # an importance is float32, whatever its weight is
    if first.is_contiguous() and second.is_contiguous():
        return torch.dot(first.view(-1), second.view(-1))
    return (first * second).sum()


def settle(weights: Mapping[str, Tensor], anchor: Weights, importance: Weights, rate: float) -> None:
    """Moves each weight, in place, to (weight + rate * importance * anchor) / (1 + rate * importance).

    That is the proximal step: the weight that minimises rate / 2 * importance (w - anchor)^2 + 1 / 2 (w - weight)^2.
    It ends between the weight and the anchor however large the rate is. Call it under `no_grad`.
    """
    names = [name for name in weights if name in importance]
    if not names or rate == 0:
        return
    share = torch._foreach_mul([importance[n].to(anchor[n]) for n in names], rate)  # noqa: SLF001
    torch._foreach_div_(share, torch._foreach_add(share, 1))  # noqa: SLF001
    torch._foreach_lerp_([weights[n] for n in names], [anchor[n] for n in names], share)


def largest(importance: Weights) -> float:
    """The largest of all values, which is the curvature of the pull along the weight held most; 0 without any."""
    return max((float(value.max()) for value in importance.values() if value.numel()), default=0.0)


def fitted(old: Weights, weights: Mapping[str, Tensor], *, fill: float | None = None) -> Weights:
    """`old` in the shapes that `weights` have now: a head may have grown since.

    What is new holds `fill`, or the present weights where that is None. As long as nothing has grown, it is `old`.
    What is frozen now stays as it is: it may be thawed again.
    """
    grown = {n: weights[n] for n, value in old.items() if n in weights and value.shape != weights[n].shape}
    if not grown:
        return old
    fresh = dict(old)
    for name, weight in grown.items():
        room = weight.detach().clone() if fill is None else torch.full_like(weight, fill, dtype=old[name].dtype)
        corner = tuple(slice(min(a, b)) for a, b in zip(old[name].shape, weight.shape, strict=True))
        room[corner] = old[name][corner]
        fresh[name] = room
    return fresh
