"""How alike rows are to a model: the cosines of the angles between the gradients of their losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from everlearn.batch import Batch, length, take
from everlearn.models.gradients import flat
from everlearn.models.views import Weights, bare, evaluating, trainable

Loss = Callable[[Callable[..., Any], Batch], Tensor]
"""From a model and a batch to the mean loss of its rows, a scalar."""

_MOST = 1 << 25
"""Numbers in the gradients of rows that are held at once, unless one row has more."""


def alike(model: nn.Module, rows: Batch, others: Batch, loss: Loss, size: int = 1) -> Tensor:
    """cos(g_i, h_j) of the gradient of each of the `rows`, (n,), and of each `size` of the `others`: (n, groups).

    The gradients are those of mean losses at the present weights: estimates, in eval mode, without touching `.grad`.
    One that is zero is at right angles to all. `size` divides the number of others.
    """
    model = bare(model)
    with evaluating(model), torch.enable_grad():
        theirs = _directions(model, others, loss, size)
        pieces = torch.split(torch.arange(length(rows)), max(1, _MOST // theirs.shape[1]))
        return torch.cat([_product(_directions(model, take(rows, piece), loss, 1), theirs) for piece in pieces])


def _directions(model: nn.Module, batch: Batch, loss: Loss, size: int) -> Tensor:
    """The gradient of each `size` rows, of length 1: (groups, weights)."""
    if all(isinstance(column, Tensor) for column in batch.values()):
        try:
            return F.normalize(_at_once(model, batch, loss, size))
        except RuntimeError:  # torch.func has no rule for something in this model: decisions by value, for example
            return F.normalize(_one_by_one(model, batch, loss, size))
    return F.normalize(_one_by_one(model, batch, loss, size))


def _product(ours: Tensor, theirs: Tensor) -> Tensor:
    with torch.autocast(ours.device.type, enabled=False):  # the passes may be in bfloat16, but not the angles
        return ours @ theirs.T


def _at_once(model: nn.Module, batch: Batch, loss: Loss, size: int) -> Tensor:
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    rest = {n: v.detach() for n, v in (*model.named_parameters(), *model.named_buffers()) if n not in weights}
    groups = {name: column.unflatten(0, (-1, size)) for name, column in batch.items()}  # type: ignore[union-attr]

    def mean(weights: Weights, group: Batch) -> Tensor:
        return loss(lambda *args, **kwargs: functional_call(model, (weights, rest), args, kwargs), group)

    with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap has a rule for
        gradients = vmap(grad(mean), in_dims=(None, 0))(weights, groups)
    return torch.cat([value.flatten(1).float() for value in gradients.values()], 1)


def _one_by_one(model: nn.Module, batch: Batch, loss: Loss, size: int) -> Tensor:
    weights = list(trainable(model).values())
    losses = [loss(model, take(batch, slice(start, start + size))) for start in range(0, length(batch), size)]
    return torch.stack([flat(torch.autograd.grad(each, weights, materialize_grads=True)) for each in losses])
