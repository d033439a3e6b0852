"""Heads that grow: more outputs for a trained model, with nothing it has learned lost."""

from collections.abc import Mapping
from difflib import get_close_matches
from math import sqrt
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, Optimizer

from everlearn.randomness import mix


@runtime_checkable
class Roomy(Protocol):
    """A layer that has rows in reserve, and can make some of them outputs in place."""

    def refit(self, keep: int, weight: Tensor, bias: Tensor) -> None:
        """Makes the outputs its first `keep`, then those of `weight` and `bias`."""
        ...


def head_of(model: nn.Module, head: str | None = None) -> tuple[str, nn.Linear]:
    """The name and the layer of the classification head: the one named `head`, else the last linear layer.

    "Last" is the order of registration, which is that of `model.named_modules()`; the name of a model that is
    a linear layer itself is "". A model without one, and a name that is none, are ValueErrors.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, so no head that could grow; give it one")
    if head is None:
        head = next(reversed(layers))
    if head not in layers:
        near = ", ".join(map(repr, get_close_matches(head, layers, n=3, cutoff=0.0)))
        raise ValueError(f"{type(model).__name__} has no nn.Linear named {head!r}; the nearest are {near}")
    return head, layers[head]


def head_weights(model: nn.Module, head: str | None = None) -> dict[str, nn.Parameter]:
    """The parameters of the layer that `head_of` finds, by their names in `model`.

    >>> list(head_weights(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))
    ['2.weight', '2.bias']
    """
    name, layer = head_of(model, head)
    return {f"{name}.{part}".lstrip("."): weight for part, weight in layer.named_parameters()}


def by_row(counts: Tensor, weight: Tensor) -> Tensor:
    """The counts of classes, as many as `weight` has rows, in a shape that goes with each row of it.

    >>> by_row(torch.tensor([3, 5]), torch.zeros(3, 7)).flatten()
    tensor([3., 5., 0.])
    """
    return F.pad(counts, (0, len(weight) - len(counts))).to(weight).view(-1, *[1] * (weight.dim() - 1))


def grow(model: nn.Module, outputs: int, head: str | None = None, *, seed: int = 0) -> nn.Linear:
    """The head of `model`, after it has been given `outputs` outputs in place; it never loses one.

    The rows that are there stay bit-identical, and dtype, device, `requires_grad` and the presence of a bias
    what they are. New rows are uniform in ±1/sqrt(in_features), as those of `nn.Linear`, but from a generator
    of their own: they depend on `seed` and on the number of rows before, and on nothing that ran earlier. The
    layer is the same object with new Parameters: tell the optimizer with `follow`. (A head that was given room
    with `pad` keeps its Parameters, and what does not fit is a ValueError.) A head that shares its weights with
    another layer, or computes them (weight_norm), is a ValueError; a lazy one is a TypeError.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> grow(model, 5)
    Linear(in_features=3, out_features=5, bias=True)
    """
    name, layer = head_of(model, head)
    if isinstance(layer, nn.LazyLinear):
        raise TypeError(f"the head {name!r} has no size yet; run one batch through the model, then grow it")
    if outputs > layer.out_features:
        seed = mix(seed, layer.out_features)
        weight, bias = drawn(outputs - layer.out_features, layer.in_features, seed)
        _refit(model, name, layer.out_features, weight, bias)
    return layer


def drawn(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """A weight (rows, width) and a bias (rows) as those of a new `nn.Linear`, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / sqrt(width) if width else 0.0
    # On the CPU and in float32, whatever the defaults are: the same numbers on every device.
    weight = torch.empty(rows, width, dtype=torch.float32, device="cpu")
    bias = torch.empty(rows, dtype=torch.float32, device="cpu")
    weight.uniform_(-bound, bound, generator=generator)
    bias.uniform_(-bound, bound, generator=generator)
    return weight, bias


def resize_like(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The names of the linear layers that were given as many outputs as `state` has for them, more or fewer.

    Only layers whose saved weight differs in the number of rows, and in nothing else, are touched. Rows that
    both have are kept, the others are zero: `model.load_state_dict(state)` fills them.
    """
    resized = []
    for name, layer in model.named_modules():
        saved = state.get(f"{name}.weight" if name else "weight")
        if saved is None or not isinstance(layer, nn.Linear) or isinstance(layer, nn.LazyLinear):
            continue
        if saved.shape[1:] == layer.weight.shape[1:] and len(saved) != layer.out_features:
            more = max(0, len(saved) - layer.out_features)
            weight, bias = torch.zeros(more, layer.in_features), torch.zeros(more)
            _refit(model, name, min(len(saved), layer.out_features), weight, bias)
            resized.append(name)
    return resized


def follow(optimizer: Optimizer, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> None:
    """Makes `optimizer` go on with the parameters of `after` where they replaced those of `before`, by name.

    Both are `dict(model.named_parameters())`, from before and after the surgery. Each new Parameter takes the
    place of the old one in its group; one that the optimizer did not have stays out, and so do new names.
    Rows that stayed keep their state (momentum, moments); new rows begin with that of a parameter never
    stepped, but share the step count of their layer. LBFGS is a TypeError: its history is one flat vector.
    """
    replaced = {old: after[name] for name, old in before.items() if name in after and after[name] is not old}
    if not replaced:
        return
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "LBFGS cannot follow a growing model, because its history is one vector over all parameters; "
            "make a new one after growing, or use another optimizer"
        )
    for group in optimizer.param_groups:
        for old in [weight for weight in group["params"] if weight in replaced]:
            if old in optimizer.state:
                new, state = replaced[old], optimizer.state.pop(old)
                optimizer.state[new] = {
                    name: _fitted(value, old, new, name, group) if isinstance(value, Tensor) else value
                    for name, value in state.items()
                }
        group["params"][:] = [replaced.get(weight, weight) for weight in group["params"]]


_FIRST = {"sum": "initial_accumulator_value", "step_size": "lr"}
"""The option of its group that a state of Adagrad or Rprop begins with; all others begin with zero."""


def _fitted(value: Tensor, old: Tensor, new: Tensor, name: str, group: Mapping[str, Any]) -> Tensor:
    """The state `value` of `old` for `new`: a dimension that follows the parameter's changes with it."""
    if value.dim() != old.dim():
        return value
    # The factored moments of Adafactor have ones in place of one dimension, whatever the parameter has there.
    factored = {"row_var": old.dim() - 1, "col_var": old.dim() - 2}.get(name)
    shape = [
        size if dimension == factored or size != old.shape[dimension] else new.shape[dimension]
        for dimension, size in enumerate(value.shape)
    ]
    first = group[_FIRST[name]] if _FIRST.get(name) in group else 0.0
    fresh = value.new_full(shape, float(first))
    kept = tuple(slice(min(sizes)) for sizes in zip(shape, value.shape, strict=True))
    fresh[kept] = value[kept]
    return fresh


def _refit(model: nn.Module, name: str, keep: int, weight: Tensor, bias: Tensor) -> None:
    """Makes the rows of the layer `name` its first `keep`, then `weight` and `bias`, as new Parameters.

    A layer that has rows in reserve keeps its Parameters.
    """
    layer, own = head_of(model, name)[1], own_parameters(model, name)
    if isinstance(layer, Roomy):
        layer.refit(keep, weight, bias)
        return
    for part, rows in (("weight", weight), ("bias", bias)):
        if part in own:
            old = own[part]
            longer = torch.cat([old.detach()[:keep], rows.to(old)])
            setattr(layer, part, nn.Parameter(longer, requires_grad=old.requires_grad))
    layer.out_features = keep + len(weight)


def own_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of the layer `name`, whose rows can be changed: ValueErrors where they are not its alone."""
    layer = head_of(model, name)[1]
    own = dict(layer.named_parameters(recurse=False))
    if "weight" not in own:
        raise ValueError(
            f"the weight of the head {name!r} is computed and no parameter, so it has no rows to keep; "
            "remove its parametrization (weight_norm and the like) before it grows"
        )
    mine = {id(part) for part in own.values()}
    for owner, module in model.named_modules():
        if module is not layer and mine & {id(part) for part in module.parameters(recurse=False)}:
            raise ValueError(
                f"the head {name!r} shares its weights with {owner!r}, which would not grow with it; untie them first"
            )
    return own
