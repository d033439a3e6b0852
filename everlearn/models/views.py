"""Looking at a model: inside its wrappers, as it was, between its layers, without disturbing it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call

Weights = dict[str, Tensor]
"""Tensors by the names of the parameters (and buffers) they belong to."""

T = TypeVar("T")


def bare(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DDP and `torch.compile`, whose prefixes would change every name."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):  # noqa: SLF001 (torch has no public name for it)
            model = model._orig_mod  # noqa: SLF001
        else:
            return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name."""
    return {name: weight for name, weight in bare(model).named_parameters() if weight.requires_grad}


def snapshot(model: nn.Module) -> Weights:
    """A copy of all parameters and buffers: plain tensors, so any checkpoint can hold it."""
    return {name: value.detach().clone() for name, value in bare(model).state_dict().items()}


@torch.no_grad()
def recall(model: nn.Module, weights: Weights, function: Callable[..., T], *arguments: Any) -> T:
    """`function(model, *arguments)` with `model` in eval mode and as it was at `weights`.

    `weights` may have heads of other sizes. Nothing of the model is changed: the weights are lent to one call.
    """
    named = {f"model.{name}": value for name, value in weights.items()}
    with evaluating(model):
        answer: T = functional_call(_Call(bare(model), function), named, arguments, tie_weights=False)
    return answer


class _Call(nn.Module):
    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.model, *arguments)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each of its modules in its own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def tap(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module`, one for each time it is called while the block runs."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def average(tensors: Mapping[str, Tensor]) -> None:
    """Makes each tensor its mean over all processes, as DDP does with gradients; alone, it does nothing."""
    if distributed.is_available() and distributed.is_initialized():
        for value in tensors.values():
            distributed.all_reduce(value)
            value /= distributed.get_world_size()
