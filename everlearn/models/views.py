"""Looking at a model: inside its wrappers, as it was, between its layers, without disturbing it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

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


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are; the CPU for a model without any."""
    for module in everything_in(model):
        for weight in module._parameters.values():  # noqa: SLF001
            if weight is not None:
                return weight.device
    return torch.device("cpu")


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
    model = bare(model)
    with evaluating(model), _lent(model, weights):
        return function(model, *arguments)


@contextmanager
def _lent(model: nn.Module, weights: Weights) -> Iterator[None]:
    """The model with `weights` in the places of its own: what `functional_call` does, without its checks."""
    modules = dict(model.named_modules(remove_duplicate=False))
    own: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for name, value in weights.items():
            path, _, leaf = name.rpartition(".")
            module = modules[path]
            place: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers  # noqa: SLF001
            own.append((place, leaf, place[leaf]))
            place[leaf] = value
        yield
    finally:
        for place, leaf, value in own:
            place[leaf] = value


class ungraded:  # noqa: N801 (used as a function)
    """`torch.no_grad()` in a third of its time: it asks first who is scripting or exporting, and nobody is."""

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # noqa: FBT003, SLF001

    def __exit__(self, *_: object) -> None:
        torch._C._set_grad_enabled(self._before)  # noqa: SLF001


class evaluating:  # noqa: N801 (used as a function)
    """The model in eval mode, and each of its modules in its own mode again afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._training = [module for module in everything_in(self._model) if module.training]
        _switch(self._training, training=False)

    def __exit__(self, *_: object) -> None:
        _switch(self._training, training=True)


def _switch(modules: list[nn.Module], *, training: bool) -> None:
    """Sets the mode of each, without the search for weights of that name that torch makes for any attribute."""
    for module in modules:
        if type(module).__setattr__ is _SET:
            object.__setattr__(module, "training", training)
        else:  # it decides for itself what an attribute is
            module.training = training


_SET = nn.Module.__setattr__


def everything_in(model: nn.Module) -> list[nn.Module]:
    """`model.modules()` in a fraction of the time; a module that is there twice may come twice."""
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        found.append(module)
        if module._modules:  # noqa: SLF001
            waiting += [inner for inner in reversed(module._modules.values()) if inner is not None]  # noqa: SLF001
    return found


@contextmanager
def tap(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module`, one for each time it is called while the block runs."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def average(tensors: Iterable[Tensor], share: float | None = None) -> None:
    """Makes each tensor its mean over all processes, in one message; alone, it does nothing.

    `share` is what those of this process weigh in the mean, where they do not all weigh the same.
    """
    if distributed.is_available() and distributed.is_initialized() and (values := list(tensors)):
        flat = torch.cat([value.detach().reshape(-1) for value in values])
        flat *= 1 / distributed.get_world_size() if share is None else share
        distributed.all_reduce(flat)
        for value, mean in zip(values, flat.split_with_sizes([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))


def total(count: int, device: torch.device) -> int:
    """The sum of `count` over all processes, by way of `device`; alone, it is `count`, and nothing is copied."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    everywhere = torch.tensor(count, device=device)
    distributed.all_reduce(everywhere)
    return int(everywhere)
