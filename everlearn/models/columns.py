"""Columns of a progressive net: nets side by side, whose layers also read what the same layers of others read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, unlabeled
from everlearn.models.heads import drawn
from everlearn.models.views import Weights, recall
from everlearn.objective import Objective
from everlearn.randomness import mix, seeded

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class Column(NamedTuple):
    """A net among others."""

    weights: Weights
    """Its state, as far as the model at hand has another one."""
    laterals: Weights
    """U of its layers, by name, with which they read the columns before it."""


class Laterals(nn.ParameterDict):
    """For each of some layers, in order, the weight U with which it reads other columns.

    Kept by place, so that an optimizer goes on from the U of one column to that of the next, whatever its layers are
    called: a `MultiHead` answers by another head then. A state brings all that there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[str] = []
        """The names of the layers."""

    def draw(self, layers: Mapping[str, Layer], columns: int, seed: int) -> None:
        """Weights with which `layers` read so many columns, as those of new layers, from generators of their own."""
        fresh: Weights = {}
        for place, (name, layer) in enumerate(layers.items()):
            weight = layer.weight
            shape = (_outputs(layer), weight.shape[1] * columns, *weight.shape[2:])
            width = columns * weight[0].numel()
            fresh[name] = drawn(shape[0], width, mix(seed, place))[0].view(shape).to(weight)
        self.put(fresh)

    def widen(self, model: nn.Module) -> None:
        """Zeros for outputs that a layer has got since."""
        layers = _layers(model)
        self.put({name: _widened(u, _outputs(layers[name])) for name, u in self.weights().items()})

    def weights(self) -> Weights:
        """Those there are, by the names of the layers."""
        return {name: self[str(place)] for place, name in enumerate(self.layers)}

    def put(self, weights: Weights) -> None:
        """Makes these all there are. What is too many is empty from now on: an optimizer may still have it."""
        self.layers = list(weights)
        for place, u in enumerate(weights.values()):
            self._place(str(place), u)
        for place in range(len(weights), len(self)):
            self._place(str(place), self[str(place)].new_zeros(0))

    @torch.no_grad()
    def _place(self, key: str, u: Tensor) -> None:
        if key in self and self[key].shape == u.shape:
            self[key].copy_(u)
        else:
            self[key] = nn.Parameter(u.detach().clone())

    def get_extra_state(self) -> list[str]:
        """The names of the layers."""
        return self.layers

    def set_extra_state(self, state: list[str]) -> None:
        """Takes over the names of the layers."""
        self.layers = list(state)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        for key in [key for key in self if f"{prefix}{key}" not in state]:
            del self[key]
        for name, u in state.items():
            if name.startswith(prefix) and isinstance(u, Tensor):
                self._place(name.removeprefix(prefix), u)
        super()._load_from_state_dict(state, prefix, *rest)


def readers(model: nn.Module, batch: Batch, objective: Objective) -> dict[str, Layer]:
    """The linear and convolution layers that have something to read in other columns, in the order of their calls.

    The first one is left out, because its input is that of all columns; so are layers whose weights are frozen.
    """
    with noted(model) as inputs:
        recall(model, {}, objective, unlabeled(batch))
    layers = _layers(model)
    return {name: layers[name] for name in list(inputs)[1:] if layers[name].weight.requires_grad}


def through(model: nn.Module, columns: Iterable[Column], batch: Batch, objective: Objective) -> list[Weights]:
    """What the layers read in each of the `columns`, of which each reads those before it."""
    before: list[Weights] = []
    for column in columns:
        with noted(model) as inputs, reading(model, column.laterals, before):
            recall(model, column.weights, objective, unlabeled(batch))
        before.append(inputs)
    return before


@contextmanager
def noted(model: nn.Module) -> Iterator[Weights]:
    """The inputs of the linear and convolution layers that are called in the block, by name, in the order of calls.

    A layer that is called twice is a ValueError: there is no telling which call of it another column would read.
    """
    inputs: Weights = {}

    def note(_layer: nn.Module, given: tuple[Tensor, ...], name: str) -> None:
        if name in inputs:
            raise ValueError(
                f"{name!r} is called more than once for one batch, but columns read each other layer by layer; give "
                "each call a layer of its own, or use another method (hat, packnet, independent)"
            )
        inputs[name] = given[0].clone()  # what comes after may work in place

    with ExitStack() as stack:
        for name, layer in _layers(model).items():
            stack.callback(layer.register_forward_pre_hook(partial(note, name=name)).remove)
        yield inputs


@contextmanager
def reading(model: nn.Module, laterals: Weights, columns: Sequence[Weights]) -> Iterator[None]:
    """Each layer that has a U among `laterals` answers U [h_1, h_2, ...] more; h_j is what it reads in column j."""

    def add(layer: Layer, _given: object, output: Tensor, name: str) -> Tensor:
        return output + lateral(layer, laterals[name], [inputs[name] for inputs in columns])

    with ExitStack() as stack:
        for name in laterals:
            stack.callback(model.get_submodule(name).register_forward_hook(partial(add, name=name)).remove)
        yield


def lateral(layer: Layer, u: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """What a layer like `layer`, with the weight `u` and no bias, makes of the channels of all `inputs`."""
    u = _widened(u, _outputs(layer))
    if isinstance(layer, nn.Linear):
        return F.linear(torch.cat(list(inputs), -1), u)
    # A group of channels reads the same group in the other columns.
    grouped = torch.cat(
        [h.reshape(len(h), layer.groups, h.shape[1] // layer.groups, *h.shape[2:]) for h in inputs], 2
    ).flatten(1, 2)
    answer: Tensor = layer._conv_forward(grouped, u, None)  # noqa: SLF001 (its padding, whatever its kind)
    return answer


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Layer)}


def _outputs(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _widened(u: Tensor, outputs: int) -> Tensor:
    """`u`, with zeros for the outputs that it is short of: a head may have grown since."""
    return u if len(u) == outputs else F.pad(u, (0, 0) * (u.dim() - 1) + (0, outputs - len(u)))


@runtime_checkable
class Drawable(Protocol):
    """A module that can draw its weights anew, as those of torch can."""

    def reset_parameters(self) -> None:
        """Draws them, from the global generator."""
        ...


def restart(model: nn.Module, first: Weights, seed: int | None) -> None:
    """Gives the model the state `first`; with a seed, what learns is drawn anew, from it alone, by modules that can."""
    if seed is not None:
        fresh = deepcopy(model).cpu()  # the same numbers on every device
        fresh.load_state_dict(first)
        with seeded(seed):
            for module in fresh.modules():
                if isinstance(module, Drawable):
                    module.reset_parameters()
        again = fresh.state_dict(keep_vars=True)
        first = {name: value.detach() if value.requires_grad else first[name] for name, value in again.items()}
    for name, value in model.state_dict().items():
        value.copy_(first[name])
