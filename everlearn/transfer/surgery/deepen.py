"""Deeper models that compute the same: a new layer is the identity, or adds zero.

Chen et al., Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016. arXiv:1511.05641
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from everlearn.models.heads import drawn
from everlearn.models.norms import NORMS
from everlearn.models.views import bare
from everlearn.objective import Objective, classify
from everlearn.randomness import mix
from everlearn.transfer.surgery.checked import Given, Outcome, SurgeryError, named, operation
from everlearn.transfer.surgery.layers import passing, place

_IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
"""Activations a with a(a(x)) = a(x)."""

_WEIGHING = (nn.Linear, nn.Bilinear, nn.Embedding, _ConvNd, *NORMS)
"""Layers that end with their weights. A block of one's own may have a scale or a bias, and an activation behind it."""


class Added(nn.Module):
    """x + branch(x).

    >>> Added(nn.Linear(3, 3))(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        branch: Tensor = self.branch(x)
        return x + branch


def deepen(
    model: nn.Module,
    after: str,
    batch: Given,
    *,
    kernel: int = 3,
    norm: bool = False,
    residual: bool = False,
    seed: int = 0,
    objective: Objective = classify,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Puts a new layer behind the one called `after`; the model answers as before.

    Net2Deeper: an identity, then the activation again, which changes nothing if a(a(x)) = a(x): `after` is a ReLU,
    or something with no negative output behind one. On images (rows, channels, height, width) it is a convolution of
    odd `kernel`, 1 at its centre k // 2; elsewhere a linear layer over the last dimension. With `norm`, a batch
    normalisation follows, with the mean m and variance v of the batch in train mode, gamma = sqrt(v + eps) and
    beta = m. Other activations need `residual`: x + branch(x), where the last layer of the branch (with `norm`, its
    gamma) is zero and the first is drawn from `seed`. See `insert` for where there is room, and for names.
    """
    model = bare(model)
    first = named(model, after)
    # In eval mode an identity norm is one with any statistics; in train mode it has to be one with those of then.
    _, seen = passing(model, after, batch, objective, statistics=norm)
    if kernel < 1 or kernel % 2 == 0:
        raise SurgeryError(f"a kernel with a centre has an odd size, but kernel is {kernel}")
    if seen.dim() not in (2, 3, 4) or not seen.is_floating_point():
        raise SurgeryError(f"{after!r} makes {tuple(seen.shape)}, which is neither an image nor rows of features")
    if norm and seen.dim() == 3:
        raise SurgeryError(f"batch normalisation of {tuple(seen.shape)} is ambiguous; deepen without norm")
    layers = _branch(seen, kernel, seed, norm=norm) if residual else _identity(after, first, seen, kernel, norm=norm)
    added: nn.Module = Added(layers) if residual else layers
    if seen.dim() == 4 and not seen.is_contiguous() and seen.is_contiguous(memory_format=torch.channels_last):
        added = added.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with operation(model, batch, objective, tol=tol, optimizer=optimizer) as outcome:
        outcome.changed[place(model, after, added.train(first.training))] = f"new behind {after!r}"
    return outcome


def _identity(after: str, first: nn.Module, seen: Tensor, kernel: int, *, norm: bool) -> nn.Sequential:
    """An identity and the activation, for what `first` makes."""
    activation: nn.Module = nn.ReLU()
    if isinstance(first, _IDEMPOTENT):
        activation = deepcopy(first)
    elif type(first).__module__ == nn.ReLU.__module__ or _weighs(first) or float(seen.min()) < 0:
        raise SurgeryError(
            f"an identity behind {after!r}, a {type(first).__name__}, and an activation again would move the function: "
            "a(a(x)) = a(x) holds for ReLU and its like only; residual=True puts in a branch that adds zero"
        )
    layer = _linear_map(seen, kernel)
    with torch.no_grad():
        (nn.init.eye_ if isinstance(layer, nn.Linear) else nn.init.dirac_)(layer.weight)
    return nn.Sequential(layer, *([_settled(seen)] if norm else []), activation)


def _weighs(layer: nn.Module) -> bool:
    """Whether its outputs come from weights as they are: that none is negative in one batch says nothing of others."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    return isinstance(layer, _WEIGHING)


def _branch(seen: Tensor, kernel: int, seed: int, *, norm: bool) -> nn.Sequential:
    """Two layers, of which the last gives zero."""
    first, last = _linear_map(seen, kernel), _linear_map(seen, kernel)
    norms = [_norm(seen), _norm(seen)] if norm else []
    with torch.no_grad():
        for number, layer in enumerate((first, last) if norm else (first,)):
            weight, _ = drawn(seen.shape[1 if seen.dim() == 4 else -1], layer.weight[0].numel(), mix(seed, number))
            layer.weight.copy_(weight.view(layer.weight.shape))
        if norm:
            norms[1].weight.zero_()
    return nn.Sequential(first, *norms[:1], nn.ReLU(), last, *norms[1:])


def _linear_map(seen: Tensor, kernel: int) -> nn.Linear | nn.Conv2d:
    """A layer of zeros from what was seen to as many numbers; making it draws nothing."""
    width = seen.shape[1 if seen.dim() == 4 else -1]
    layer: nn.Linear | nn.Conv2d
    if seen.dim() == 4:
        layer = nn.Conv2d(width, width, kernel, padding=kernel // 2, device="meta", dtype=seen.dtype)
    else:
        layer = nn.Linear(width, width, device="meta", dtype=seen.dtype)
    layer.to_empty(device=seen.device)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    return layer


def _norm(seen: Tensor) -> nn.BatchNorm1d | nn.BatchNorm2d:
    kind = nn.BatchNorm2d if seen.dim() == 4 else nn.BatchNorm1d
    return kind(seen.shape[1], device=seen.device, dtype=seen.dtype)


def _settled(seen: Tensor) -> nn.Module:
    """A batch normalisation that changes nothing: in eval mode whatever comes, in train mode what was seen."""
    norm = _norm(seen)
    dims = [dim for dim in range(seen.dim()) if dim != 1]
    variance, mean = torch.var_mean(seen.float(), dim=dims, correction=0)
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018 (as made)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.copy_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())
    return norm
