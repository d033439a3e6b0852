"""Surgery that proves itself: the answers to a real batch before and after, and the way back if they moved."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from everlearn.batch import Batch, move, unlabeled
from everlearn.models.heads import follow
from everlearn.models.views import bare, device_of, evaluating
from everlearn.objective import Objective, classify
from everlearn.randomness import unmoved

Given = Tensor | Batch
"""What an operation is checked on: a batch as the objective takes it, or the inputs `x` alone."""


class SurgeryError(ValueError):
    """An operation that was refused, or that moved the function; the model is as it was before it."""


@dataclass
class Outcome:
    """What an operation changed, and how far the answers to the batch moved: largest absolute differences."""

    changed: dict[str, str] = field(default_factory=dict)
    """What became of which layer, by its name."""
    evaluated: float = 0.0
    """In eval mode."""
    trained: float = 0.0
    """With the normalisations on statistics of the batch, as in training; dropout is off."""
    scale: float = 0.0
    """The largest absolute answer before."""
    exact: bool = True
    """Whether the operation was to leave the function as it was."""

    def __str__(self) -> str:
        promise = "the function is as it was" if self.exact else "the function was not to be preserved"
        moved = f"{self.evaluated:.1e} (eval) and {self.trained:.1e} (batch statistics)"
        lines = [f"{promise}: answers up to {self.scale:.3g} differ by at most {moved}"]
        return "\n".join([*lines, *(f"  {name}: {what}" for name, what in self.changed.items())])


@contextmanager
def operation(
    model: nn.Module,
    batch: Given,
    objective: Objective = classify,
    *,
    exact: bool = True,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Iterator[Outcome]:
    """A block that changes `model`; if it raises, or if answers moved that were to stay, all is as it was.

    The answers are those of `objective` to `batch`, in eval mode and with statistics of the batch. They may move by
    `tol` times the largest of them; the default goes with the coarsest dtype of the parameters. Afterwards the
    `optimizer` goes on with the Parameters that replaced others, drops those that are gone, and has those that are
    new in a group of their own, with the options of its first.
    """
    model = bare(model)
    if lazy := [name for name, weight in model.named_parameters() if is_lazy(weight)]:
        raise SurgeryError(f"{lazy[0]!r} has no size yet; run one batch through the model first")
    before, weights = _both(model, batch, objective), dict(model.named_parameters())
    scales = [float(logits.abs().max()) for logits in before]
    outcome = Outcome(scale=max(scales), exact=exact)
    with undone(model):
        yield outcome
        try:
            after = _both(model, batch, objective)
        except RuntimeError as error:
            raise SurgeryError(
                f"the model would no longer run, so the operation was undone. torch says: {error}"
            ) from error
        if before[0].shape != after[0].shape:
            raise SurgeryError(
                f"the answers had shape {tuple(before[0].shape)} and would have {tuple(after[0].shape)}; the operation "
                "was undone"
            )
        moved = [float((a.double() - b.double()).abs().max()) for a, b in zip(after, before, strict=True)]
        outcome.evaluated, outcome.trained = moved
        share = (tolerance(model) if tol is None else tol) if exact else torch.inf
        # Each against the answers of its own mode: those of an untrained net can be tiny in one of them.
        allowed = all(m <= share * max(s, _TINY) for m, s in zip(moved, scales, strict=True))  # NaN compares false
        if not allowed or torch.inf in moved:
            raise SurgeryError(
                f"answers up to {scales[0]:.3g} would move by {moved[0]:.1e} in eval mode, and those up to "
                f"{scales[1]:.3g} with statistics of the batch by {moved[1]:.1e}, but may move by {share:.0e} of that; "
                "the operation was undone"
            )
        if optimizer is not None:
            carry(optimizer, weights, dict(model.named_parameters()))


def tolerance(model: nn.Module) -> float:
    """What rounding may move, relative to the answers, in the coarsest dtype of the parameters."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return max((_TOLERANCES.get(dtype, 0.05) for dtype in dtypes), default=1e-4)


_TINY = 1e-30
"""What counts as zero: rounding below it is none."""

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}


def answers(model: nn.Module, batch: Given, objective: Objective, *, statistics: bool = False) -> Tensor:
    """The logits for `batch`: see `ask`."""
    logits = ask(model, batch, objective, statistics=statistics)
    if not isinstance(logits, Tensor):
        raise SurgeryError(f"the answers must be a tensor, but the objective gave a {type(logits).__name__}")
    return logits.detach().clone()


@torch.no_grad()
def ask(model: nn.Module, batch: Given, objective: Objective, *, statistics: bool = False) -> Any:
    """What `objective` answers to `batch`, in eval mode, or with `statistics` of the batch in its normalisations.

    Nothing is changed by that: no buffer, mode or random generator.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase)] if statistics else []
    device = device_of(model)
    with unmoved(device), settled_buffers(model), evaluating(model):
        try:
            for norm in norms:
                norm.training = True
            return objective(model, unlabeled(move(columns(batch), device))).logits
        finally:
            for norm in norms:
                norm.training = False


def columns(batch: Given) -> Batch:
    """The batch; inputs alone are its column "x"."""
    return {"x": batch} if isinstance(batch, Tensor) else batch


def _both(model: nn.Module, batch: Given, objective: Objective) -> tuple[Tensor, Tensor]:
    settled = answers(model, batch, objective)
    if not any(isinstance(module, _NormBase) for module in model.modules()):
        return settled, settled
    try:
        return settled, answers(model, batch, objective, statistics=True)
    except ValueError as error:
        raise SurgeryError(
            f"the batch is too small for the normalisations of the model; give more rows: {error}"
        ) from error


@contextmanager
def settled_buffers(model: nn.Module) -> Iterator[None]:
    """The buffers of the model as they were, afterwards."""
    held = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.copy_(value)


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """If the block raises: the same modules in the same places, with their Parameters, buffers, modes and hooks.

    What the block replaced comes back as the very same objects; of what it wrote in place, only buffers do.
    """
    held = [(module, type(module), dict(vars(module)), _contents(vars(module))) for module in model.modules()]
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        for module, kind, attributes, contents in held:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            for container, content in contents:
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)
        for weight, flag in flags:
            weight.requires_grad_(flag)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        raise


def _contents(attributes: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Copies of what the containers hold: whoever removes a hook later looks for it in the same dict."""
    return [(value, copy(value)) for value in attributes.values() if isinstance(value, (dict, list, set))]


def carry(optimizer: Optimizer, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> None:
    """Makes `optimizer` go on after surgery: see `operation`. `before` and `after` are all parameters by name."""
    there = set(map(id, after.values()))
    gone = {name: weight for name, weight in before.items() if id(weight) not in there}
    successors = {id(after[name]) for name in gone if name in after}
    follow(optimizer, gone, after)
    dropped = {id(weight) for name, weight in gone.items() if name not in after}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if id(weight) in dropped:
                optimizer.state.pop(weight, None)
        group["params"][:] = [weight for weight in group["params"] if id(weight) not in dropped]
    known = {id(weight) for weight in before.values()} | successors
    new = [weight for weight in after.values() if id(weight) not in known and weight.requires_grad]
    if new:
        optimizer.add_param_group({"params": new})


def named(model: nn.Module, name: str, *kinds: type[nn.Module]) -> nn.Module:
    """The module called `name`, which must be one of `kinds`, if any are given, and not the model itself."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        raise SurgeryError(f"{type(model).__name__} has no layer named {name!r}; there are {_some(list(modules)[1:])}")
    module: nn.Module = modules[name]
    if kinds and not isinstance(module, kinds):
        raise SurgeryError(
            f"the layer {name!r} is a {type(module).__name__}, but must be a "
            f"{' or '.join(kind.__name__ for kind in kinds)}"
        )
    return module


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Makes `module` the one called `name`."""
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._modules[leaf] = module  # noqa: SLF001 (also a ModuleList takes it under this name)


def alone(model: nn.Module, names: Mapping[str, object]) -> None:
    """Raises unless the parameters of the layers `names` are theirs alone, and plain."""
    modules = dict(model.named_modules())
    owners: dict[int, str] = {}
    for name, module in modules.items():
        for part in module.parameters(recurse=False):
            first = owners.setdefault(id(part), name)
            if first != name and (first in names or name in names):
                raise SurgeryError(f"{first!r} and {name!r} share their weights; untie them first")
    for name in names:
        if "weight" not in modules[name]._parameters:  # noqa: SLF001 (a norm without weights has None there)
            raise SurgeryError(
                f"the weight of {name!r} is computed and no parameter (weight_norm and the like); remove its "
                "parametrization first"
            )


def replace(layer: nn.Module, part: str, value: Tensor) -> None:
    """Makes `value` the parameter or buffer `part` of `layer`: a new one, in the dtype, layout and mode of the old."""
    old = layer._parameters.get(part)  # noqa: SLF001 (which of the two it is)
    own: Tensor = layer.get_buffer(part) if old is None else old
    value = value.detach().to(own)
    if own.dim() in (4, 5) and not own.is_contiguous():
        value = value.contiguous(memory_format=torch.channels_last if own.dim() == 4 else torch.channels_last_3d)
    if old is None:
        layer._buffers[part] = value  # noqa: SLF001
    else:
        layer._parameters[part] = nn.Parameter(value, requires_grad=old.requires_grad)  # noqa: SLF001


def call_of(model: nn.Module, batch: Given, objective: Objective) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which `objective` calls the model for `batch`, the first time."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        ask(model, batch, objective)
    finally:
        hook.remove()
    return calls[0]
