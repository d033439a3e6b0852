"""Normalisation layers: their scales and shifts, and by which statistics they normalise."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from everlearn.models.resting import resting
from everlearn.models.views import Weights, bare

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""The layers that normalise."""


def affine(model: nn.Module, skip: float = 0.0) -> list[str]:
    """The names of the trainable scales and shifts of all normalisation layers but the last `skip` of them, a share."""
    layers = [(name, module) for name, module in bare(model).named_modules() if isinstance(module, NORMS)]
    count = max(1, len(layers) - round(skip * len(layers)))
    named = ((name, leaf, w) for name, module in layers[:count] for leaf, w in module.named_parameters(recurse=False))
    return [f"{name}.{leaf}".lstrip(".") for name, leaf, weight in named if weight.requires_grad]


def moving(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisations in train mode, by name: they normalise by the batch, unless someone put them to rest."""
    named = bare(model).named_modules()
    return {name: module for name, module in named if isinstance(module, _BatchNorm) and module.training}


def copies(model: nn.Module, names: Collection[str]) -> Weights:
    """What the model's parameters and buffers of these names hold."""
    there = bare(model).state_dict()  # without the rows that a head has in reserve
    return {name: value.clone() for name, value in there.items() if name in names}


def statistics(norms: dict[str, _BatchNorm]) -> list[str]:
    """The names of their running statistics."""
    return [f"{name}.{leaf}".lstrip(".") for name, norm in norms.items() for leaf, _ in norm.named_buffers()]


@contextmanager
def by_batch(norms: Sequence[_BatchNorm], *, track: bool = True) -> Iterator[None]:
    """These normalise by the batch; unless `track`, their running statistics do not notice."""
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    for norm, _, tracks in before:
        norm.training, norm.track_running_stats = True, track and tracks
    try:
        yield
    finally:
        for norm, training, tracks in before:
            norm.training, norm.track_running_stats = training, tracks


@contextmanager
def forwarding(norms: Sequence[nn.Module], make: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """In the block each has the forward that `make` makes of it; afterwards, what it had before.

    That may be one of these, too, of a block further out.
    """
    before = [(vars(norm), vars(norm).get("forward")) for norm in norms]
    try:
        for norm in norms:
            vars(norm)["forward"] = make(norm)
        yield
    finally:
        for place, own in before:
            place.pop("forward", None)
            place.update({} if own is None else {"forward": own})


@contextmanager
def adapting(model: nn.Module, but: Collection[str], norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """The model in eval mode, but `norms` normalise by the batch; only the weights named in `but` are in the graph."""
    with resting(model, but=but), by_batch(norms):
        yield
