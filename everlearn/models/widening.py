"""More inputs for a trained model: what it has learned stays as it was, and the new ones begin at 0."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.models.heads import drawn
from everlearn.models.views import bare, device_of, evaluating
from everlearn.randomness import mix, unmoved


def input_layers(model: nn.Module, inputs: int) -> dict[str, nn.Linear]:
    """The linear layers that read the rows, (rows, inputs), just as the model is given them, by name.

    They are found by trying: a row of random numbers is shown, and it is seen who is handed the same.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not inputs:
        return {name: layer for name, layer in layers.items() if not layer.in_features}
    x = torch.rand(1, inputs, generator=torch.Generator().manual_seed(0)).to(next(model.parameters(), torch.empty(0)))
    found: dict[str, nn.Linear] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], name: str) -> None:
        if isinstance(layer, nn.Linear) and given[0].shape == x.shape and torch.equal(given[0], x):
            found[name] = layer

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(partial(note, name=name)).remove)
        _show(model, x)
    return found


@torch.no_grad()
def _show(model: nn.Module, x: Tensor) -> None:
    with unmoved(device_of(model)), evaluating(model):
        model(x)


def grow_inputs(model: nn.Module, before: int, inputs: int, *, seed: int = 0) -> list[str]:
    """Makes a model of rows (rows, before) one of rows (rows, inputs), in place; gives the names of the layers grown.

    The weights of new inputs are 0, so the function is the same at that moment, whatever they hold. Only
    of a model without any input (before = 0), which 0 would leave dead behind its rectifiers, are they, and the biases,
    those of a new `nn.Linear`, drawn with `seed`. The layers are the same objects with new Parameters: tell the
    optimizer with `follow`. Where rows are read by anything but linear layers that is a ValueError.
    """
    model = bare(model)
    layers = input_layers(model, before)
    if not layers and any(True for _ in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear that reads its rows as they come, so there is nothing that could "
            "take more inputs; name all fields before the stream begins, or ignore new ones"
        )
    old = {name: (layer.weight, layer.bias) for name, layer in layers.items()}
    for place, layer in enumerate(layers.values()):
        _widen(layer, inputs, mix(seed, place) if not before else None)
    try:
        _show(model, next(model.parameters(), torch.empty(0)).new_zeros(1, inputs))
    except (RuntimeError, ValueError) as error:
        for name, layer in layers.items():
            layer.weight, layer.bias = old[name]
            layer.in_features = before
        raise ValueError(
            f"{type(model).__name__} reads its rows by more than linear layers, so it cannot take {inputs} inputs in "
            f"place of {before}: {error}. Name all fields before the stream begins, or ignore new ones"
        ) from error
    return list(layers)


def resize_inputs_like(model: nn.Module, state: Mapping[str, Tensor], before: int, inputs: int) -> None:
    """Gives the layers that read `before` inputs the `inputs` that they have in `state`, which is to fill them."""
    for name, layer in bare(model).named_modules():
        saved = state.get(f"{name}.weight" if name else "weight")
        reads = isinstance(layer, nn.Linear) and layer.in_features == before != inputs
        if isinstance(layer, nn.Linear) and reads and saved is not None and saved.shape[1] == inputs:
            _put(layer, layer.weight.new_zeros(layer.out_features, inputs))


def _widen(layer: nn.Linear, inputs: int, seed: int | None) -> None:
    """Zeros behind the columns there are; with a seed, where there are none, those of a new layer."""
    if seed is None:
        _put(layer, F.pad(layer.weight.detach(), (0, inputs - layer.in_features)))
        return
    weight, bias = drawn(layer.out_features, inputs, seed)
    _put(layer, weight.to(layer.weight))
    if layer.bias is not None:
        layer.bias = nn.Parameter(bias.to(layer.bias), requires_grad=layer.bias.requires_grad)


def _put(layer: nn.Linear, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    layer.in_features = weight.shape[1]
