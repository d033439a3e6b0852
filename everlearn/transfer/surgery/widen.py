"""Wider layers that compute the same: units are copied, and those who read them weigh each copy less.

Chen et al., Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016. arXiv:1511.05641
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer

from everlearn.models.heads import Roomy
from everlearn.models.views import bare
from everlearn.objective import Objective, classify
from everlearn.randomness import mix
from everlearn.transfer.surgery.checked import Given, Outcome, SurgeryError, alone, named, operation, replace
from everlearn.transfer.surgery.graph import Ties, ties


def widen(
    model: nn.Module,
    name: str,
    batch: Given,
    *,
    to: int,
    into: Sequence[str] | None = None,
    between: Sequence[str] = (),
    together: bool = False,
    noise: float = 0.0,
    seed: int = 0,
    objective: Objective = classify,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Gives the linear layer or convolution `name` as many outputs as `to` says; the model answers as before.

    Net2Wider: W1'[j] = W1[g(j)], W2'[:, j] = W2[:, g(j)] / (how many j' have g(j') = g(j)), where g(j) = j for the
    units that there are and is drawn from `seed` for the others. Norms and depthwise convolutions on the way copy
    weights and running statistics. Who reads the outputs is found by torch.fx; where a model cannot be traced, name
    them: `into` reads the outputs, `between` are the norms and depthwise convolutions on the way. Layers whose outputs
    are added to these must grow along, and do if you say `together`. The layers stay the same objects, with new
    Parameters. It is checked on `batch` (rows, or inputs alone) and undone if the answers move: a SurgeryError.

    Copies stay alike where they get the same gradient: `noise` moves the copies' own weights after the check, by that
    many standard deviations of the weights, which moves the function. Dropout tells copies apart without it.
    """
    model = bare(model)
    layer = named(model, name, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    own = _outputs(layer)
    if to <= own:
        raise SurgeryError(f"{name!r} has {own} outputs, so it becomes no wider by to={to}")
    found = ties(model, name, batch, objective) if into is None else _given(model, name, own, into, between)
    if len(found.makers) > 1 and not together:
        others = ", ".join(sorted(repr(other) for other in found.makers if other != name))
        raise SurgeryError(
            f"the outputs of {name!r} are joined with those of {others}, which must have as many; together=True widens "
            "all of them"
        )
    alone(model, found.makers | found.between | found.readers)
    generator = torch.Generator().manual_seed(mix(seed, own, to))
    origin = torch.cat([torch.arange(own), torch.randint(own, (to - own,), generator=generator)])
    with operation(model, batch, objective, tol=tol, optimizer=optimizer) as outcome:
        for path, block in found.makers.items():
            _make(path, named(model, path), origin, block, outcome)
        for path, block in found.between.items():
            _pass(path, named(model, path), origin, block, outcome)
        for path, block in found.readers.items():
            _read(path, named(model, path), origin, block, outcome)
    if noise:
        with torch.no_grad():
            for path, block in found.makers.items():
                weight = named(model, path).get_parameter("weight")
                fresh = torch.randn(weight[own * block :].shape, generator=generator)
                weight[own * block :] += (noise * weight.float().std() * fresh.to(weight.device)).to(weight)
        outcome.exact = False
    return outcome


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, Roomy):
        raise SurgeryError("a layer with rows in reserve grows by grow(); widen a plain one")
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        raise SurgeryError(
            f"a convolution of {layer.groups} groups is not widened by itself; widen the layer before it"
        )
    return _size(layer)


def _size(layer: nn.Module) -> int:
    assert isinstance(layer, (nn.Linear, _ConvNd))  # noqa: S101 (the kinds are checked)
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _given(model: nn.Module, name: str, units: int, into: Sequence[str], between: Sequence[str]) -> Ties:
    """The layers named by the user, with the numbers that a unit has in each."""
    found = Ties(makers={name: 1})
    for where, paths in ((found.between, between), (found.readers, into)):
        for path in paths:
            block, rest = divmod(_inputs(path, named(model, path)), units)
            if rest or not block:
                raise SurgeryError(
                    f"{path!r} takes {_inputs(path, named(model, path))} inputs, no multiple of the {units} outputs of "
                    f"{name!r}"
                )
            where[path] = block
    return found


def _inputs(path: str, layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, _ConvNd):
        return layer.in_channels
    if isinstance(layer, _BatchNorm):
        return layer.num_features
    raise SurgeryError(f"{path!r} is a {type(layer).__name__}, of which nothing is known but its name")


def _places(origin: Tensor, block: int) -> Tensor:
    """Where each number comes from, if each unit has `block` of them side by side."""
    return (origin[:, None] * block + torch.arange(block)).flatten()


def _make(path: str, layer: nn.Module, origin: Tensor, block: int, outcome: Outcome) -> None:
    """Copies outputs."""
    rows = _places(origin, block)
    _gather(layer, ("weight", "bias"), rows)
    before = _size(layer)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(rows)
    elif isinstance(layer, _ConvNd):
        layer.out_channels = len(rows)
    outcome.changed[path] = f"{before} to {len(rows)} outputs"


def _pass(path: str, layer: nn.Module, origin: Tensor, block: int, outcome: Outcome) -> None:
    """Copies what is between: all of a unit's weights and statistics."""
    if isinstance(layer, _BatchNorm):
        places = _places(origin, block)
        _gather(layer, ("weight", "bias", "running_mean", "running_var"), places)
        layer.num_features = len(places)
    elif isinstance(layer, _ConvNd) and layer.groups == layer.in_channels:
        places = _places(origin, block)
        many = layer.out_channels // layer.in_channels
        _gather(layer, ("weight", "bias"), _places(origin, block * many))
        layer.in_channels = layer.groups = len(places)
        layer.out_channels = many * len(places)
    else:
        raise SurgeryError(f"{path!r}, a {type(layer).__name__}, is neither a batch norm nor a depthwise convolution")
    outcome.changed[path] = f"along, {len(places)} channels"


def _read(path: str, layer: nn.Module, origin: Tensor, block: int, outcome: Outcome) -> None:
    """Copies inputs, and divides each by the number of its copies."""
    if not isinstance(layer, (nn.Linear, _ConvNd)) or isinstance(layer, _ConvTransposeNd):
        raise SurgeryError(f"{path!r}, a {type(layer).__name__}, is no linear layer or convolution that reads it")
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        raise SurgeryError(f"{path!r}, a convolution of {layer.groups} groups, does not read all of it in each output")
    counts = torch.bincount(origin)[origin].repeat_interleave(block)
    places = _places(origin, block).to(layer.weight.device)
    weight = layer.weight.detach()
    shares = counts.to(weight).view(1, -1, *[1] * (weight.dim() - 2))
    replace(layer, "weight", weight.index_select(1, places) / shares)
    before = weight.shape[1]
    if isinstance(layer, nn.Linear):
        layer.in_features = len(places)
    else:
        layer.in_channels = len(places)
    outcome.changed[path] = ", ".join(filter(None, [outcome.changed.get(path), f"{before} to {len(places)} inputs"]))


def _gather(layer: nn.Module, parts: Sequence[str], places: Tensor) -> None:
    for part in parts:
        value = {**layer._buffers, **layer._parameters}.get(part)  # noqa: SLF001 (some may be absent)
        if value is not None:
            replace(layer, part, value.detach().index_select(0, places.to(value.device)))
