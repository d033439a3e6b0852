"""Parts of a model at rest while others learn."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from everlearn.models.views import Weights, bare, evaluating, trainable


@contextmanager
def resting(model: nn.Module, *, but: Collection[str]) -> Iterator[None]:
    """The model in eval mode, with only the weights named in `but` in the graph of what is computed.

    The others get no gradient at all, not one of zeros, so no optimizer moves them, by momentum or decay either.
    """
    weights = [weight for name, weight in trainable(model).items() if name not in but]
    for weight in weights:
        weight.requires_grad = False
    try:
        with evaluating(bare(model)):
            yield
    finally:
        for weight in weights:
            weight.requires_grad = True


def drop_gradients(model: nn.Module, *, but: Collection[str]) -> None:
    """Takes the gradients of all weights but those named: what is computed outside of `resting` may give them some."""
    for name, weight in trainable(model).items():
        if name not in but:
            weight.grad = None


def block(model: nn.Module, moving: Weights) -> None:
    """Multiplies gradients by the masks (or shares) `moving`; a weight without one keeps its own."""
    for name, weight in trainable(model).items():
        if name in moving and weight.grad is not None:
            weight.grad.mul_(moving[name])


def restore(model: nn.Module, held: Weights, moving: Weights) -> None:
    """Gives the entries that the masks `moving` leave out the values in `held`; for weights and buffers.

    A gradient of zero is not enough to hold a weight: momentum, moments and weight decay move it. Under `no_grad`.
    """
    now = bare(model).state_dict()
    for name, mask in moving.items():
        now[name].copy_(now[name].where(mask, held[name]))


@contextmanager
def settled_norms(model: nn.Module, *, settled: bool = True) -> Iterator[None]:
    """The normalisations with running statistics in eval mode where `settled`: they use these, and leave them."""
    with ExitStack() as stack:
        for module in bare(model).modules() if settled else ():
            if isinstance(module, _NormBase):
                stack.enter_context(evaluating(module))
        yield


@contextmanager
def unshaken(model: nn.Module, *, settled: bool = True) -> Iterator[None]:
    """The model in eval mode, where nothing is drawn by chance, but for normalisations that are not to be `settled`."""
    moving = [m for m in bare(model).modules() if isinstance(m, _NormBase) and m.training and not settled]
    with evaluating(bare(model)):
        for module in moving:
            module.training = True
        yield


def survivors(values: Tensor, among: Tensor, share: float) -> Tensor:
    """The mask of those `among` (a mask) that are left when the `share` of lowest magnitude goes; of equals, the last.

    >>> import torch
    >>> survivors(torch.tensor([3.0, -1.0, 9.0, 0.5]), torch.tensor([True, True, False, True]), 0.5)
    tensor([ True, False, False, False])
    """
    places = among.flatten().nonzero().flatten()
    order = values.flatten()[places].abs().argsort(stable=True)
    left = places[order[round(share * len(places)) :]]
    return among.new_zeros(among.numel()).index_fill(0, left, value=True).view(among.shape)
