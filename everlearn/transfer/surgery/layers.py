"""Layers in and out of a trained model: insert, remove, and stack copies of a block."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from everlearn.models.views import bare
from everlearn.objective import Objective, classify
from everlearn.transfer.surgery.checked import Given, Outcome, SurgeryError, answers, named, operation, put


def insert(
    model: nn.Module,
    after: str,
    layer: nn.Module,
    batch: Given,
    *,
    exact: bool = False,
    objective: Objective = classify,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Puts `layer` behind the one called `after`, and says how far that moves the answers.

    With `exact`, it is undone if it moves them, and a SurgeryError. No name changes: one without weights (an
    activation, a pooling) becomes a Sequential of itself and `layer`; behind any other, an `nn.Sequential` that holds
    it gets one more entry. Elsewhere there is no room, which is a SurgeryError. The layer takes over the mode, train
    or eval, of the one before it; dtype and device are yours to choose.
    """
    model = bare(model)
    first = named(model, after)
    with operation(model, batch, objective, exact=exact, tol=tol, optimizer=optimizer) as outcome:
        layer.train(first.training)
        where = place(model, after, layer)
        outcome.changed[where] = f"{type(layer).__name__}, new behind {after!r}"
    return outcome


def place(model: nn.Module, after: str, layer: nn.Module) -> str:
    """Puts `layer` behind `after`; the name that it has got."""
    first, (path, _, leaf) = named(model, after), after.rpartition(".")
    parent = model.get_submodule(path)
    if not first.state_dict():
        put(model, after, nn.Sequential(first, layer).train(first.training))
        return f"{after}.1"
    if type(parent) is not nn.Sequential:
        raise SurgeryError(
            f"{after!r} has weights, the names of which would change, and is in no nn.Sequential but in a "
            f"{type(parent).__name__}; insert behind an activation or a pooling"
        )
    return f"{path}.{_entered(parent, leaf, layer)}".lstrip(".")


def _entered(parent: nn.Sequential, leaf: str, layer: nn.Module) -> str:
    """Makes `layer` the entry behind `leaf`, under a name that is free; all others keep theirs."""
    entries = list(parent._modules.items())  # noqa: SLF001 (their order is that of the forward pass)
    key = next(name for number in range(1, len(entries) + 2) if (name := f"{leaf}_{number}") not in parent._modules)  # noqa: SLF001
    at = 1 + [name for name, _ in entries].index(leaf)
    parent._modules.clear()  # noqa: SLF001
    parent._modules.update([*entries[:at], (key, layer), *entries[at:]])  # noqa: SLF001
    return key


def remove(
    model: nn.Module,
    name: str,
    batch: Given,
    *,
    objective: Objective = classify,
    exact: bool = False,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Puts an identity in the place of the layer `name`, and says how far that moves the answers.

    Its outputs must have the shape of its inputs. The names of the other layers stay. With `exact`, it is undone
    if it moves them, and a SurgeryError.
    """
    model = bare(model)
    layer = named(model, name)
    given, made = passing(model, name, batch, objective)
    if given.shape != made.shape:
        raise SurgeryError(
            f"{name!r} makes {tuple(made.shape)} of {tuple(given.shape)}, so an identity cannot stand in its place"
        )
    with operation(model, batch, objective, exact=exact, tol=tol, optimizer=optimizer) as outcome:
        put(model, name, nn.Identity().train(layer.training))
        outcome.changed[name] = f"{type(layer).__name__}, removed"
    return outcome


def passing(
    model: nn.Module, name: str, batch: Given, objective: Objective, *, statistics: bool = False
) -> tuple[Tensor, Tensor]:
    """The (first) input and output of the layer `name` while `objective` is asked; it must be called once.

    In eval mode, or with `statistics` of the batch in the normalisations.
    """
    seen: list[tuple[Any, Any]] = []
    hook = named(model, name).register_forward_hook(lambda _, inputs, output: seen.append((inputs[:1], output)))
    try:
        answers(model, batch, objective, statistics=statistics)
    finally:
        hook.remove()
    if len(seen) != 1 or not seen[0][0]:
        raise SurgeryError(
            f"{name!r} is called {len(seen)} times for one batch, and must be called once, with a tensor"
        )
    (given,), made = seen[0]
    if not (isinstance(given, Tensor) and isinstance(made, Tensor)):
        raise SurgeryError(f"{name!r} must take and make one tensor, but makes a {type(made).__name__}")
    return given, made


def stack(
    model: nn.Module,
    block: str,
    batch: Given,
    *,
    copies: int = 1,
    zero: Sequence[str] | None = None,
    objective: Objective = classify,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Puts copies of the residual or transformer block called `block` behind it.

    `zero` names, within the block, the last projection of each of its branches, which is zero in the copies: they add
    nothing at first, and the model answers as before, or all is undone. None looks for them: the output projection of
    each `nn.MultiheadAttention`, and the last convolution, linear layer or batch norm. With () the copies are plain
    ones: the function moves, and the outcome says how far. In an `nn.ModuleList` the names of the blocks behind it
    move up; in an `nn.Sequential` no name changes. A block with the norm behind the sum (post-norm) is no identity
    for any weights, so only plain copies of it are possible. Hooks are not copied.
    """
    model = bare(model)
    first, (path, _, leaf) = named(model, block), block.rpartition(".")
    parent = model.get_submodule(path)
    if copies < 1:
        raise SurgeryError(f"copies must be at least 1, but is {copies}")
    if not isinstance(parent, (nn.Sequential, nn.ModuleList)):
        raise SurgeryError(
            f"{block!r} is in a {type(parent).__name__}, but must be in an nn.Sequential or nn.ModuleList"
        )
    last = projections(first) if zero is None else tuple(zero)
    if zero is None and not last:
        raise SurgeryError(f"{block!r} has no projection to be zero; zero=() makes plain copies")
    with operation(model, batch, objective, exact=bool(last), tol=tol, optimizer=optimizer) as outcome:
        for number in range(copies):
            copy = _copied(first)
            for name in last:
                _silence(named(copy, name), name)
            if isinstance(parent, nn.Sequential):
                where = _entered(parent, leaf, copy)
            else:
                where = str(int(leaf) + 1 + number)
                parent.insert(int(where), copy)
            zeros = f", with {', '.join(map(repr, last))} at zero" if last else ", a plain one"
            outcome.changed[f"{path}.{where}".lstrip(".")] = f"copy of {block!r}{zeros}"
    return outcome


def projections(block: nn.Module) -> tuple[str, ...]:
    """The names of the layers that end the branches of a block, as far as its layers tell."""
    modules = dict(block.named_modules())
    attention = [f"{name}.out_proj" for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)]
    inside = {name for name in modules for start in attention if name.startswith(start)}
    rest = [
        name
        for name, module in modules.items()
        if name and name not in inside and isinstance(module, (nn.Linear, _ConvNd, _BatchNorm))
    ]
    return (*attention, *rest[-1:])


@torch.no_grad()
def _silence(layer: nn.Module, name: str) -> None:
    weights = dict(layer.named_parameters(recurse=False))
    if "weight" not in weights:
        raise SurgeryError(f"{name!r}, a {type(layer).__name__}, has no weight of its own that could be zero")
    for weight in weights.values():
        weight.zero_()


def _copied(block: nn.Module) -> nn.Module:
    copy = deepcopy(block)
    for module in copy.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):  # noqa: SLF001
            hooks.clear()
    return copy
