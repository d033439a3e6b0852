"""What of a model may learn: weights that do not, modules that rest, and how both come back.

A weight that does not learn has `requires_grad=False`. A module at rest is in eval mode whoever calls `train()`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from everlearn.models.views import bare

Norm = Literal["frozen", "adapt", "recompute"]
"""What becomes of running statistics beside weights that do not learn."""


class Rest:
    """Stands where a module has its `train`, and keeps that module in eval mode; what is inside it decides for itself.

    It is plain data of the module, so it goes where the module goes: into copies and through `torch.compile`.
    """

    def __init__(self, module: nn.Module, norm: Norm) -> None:
        self.module, self.norm = module, norm

    def __call__(self, mode: bool = True) -> nn.Module:
        """Says `mode` to the modules inside."""
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def put_to_rest(module: nn.Module, norm: Norm = "frozen") -> None:
    """From now on the module is in eval mode; `norm` is what is to become of its statistics."""
    module.train = Rest(module, norm)  # type: ignore[method-assign]
    module.training = False


def wake(module: nn.Module, *, training: bool) -> None:
    """The module obeys `train()` again, and is in this mode now."""
    if _rest(module) is not None:
        del module.train
        module.training = training


def at_rest(model: nn.Module) -> dict[str, Norm]:
    """The modules at rest, by name, and what is to become of their statistics."""
    return {name: rest.norm for name, module in bare(model).named_modules() if (rest := _rest(module)) is not None}


def _rest(module: nn.Module) -> Rest | None:
    train = vars(module).get("train")
    return train if isinstance(train, Rest) else None


def has_statistics(module: nn.Module) -> TypeGuard[_NormBase]:
    """Whether it is a normalisation that keeps running statistics."""
    return isinstance(module, _NormBase) and module.running_mean is not None


def counting(model: nn.Module) -> dict[str, _NormBase]:
    """The normalisations whose running statistics are not frozen, by name."""
    model = bare(model)
    resting = at_rest(model)
    named = model.named_modules()
    return {name: module for name, module in named if has_statistics(module) and resting.get(name) != "frozen"}


def still(model: nn.Module) -> list[str]:
    """The names of the weights that do not learn."""
    return [name for name, weight in bare(model).named_parameters() if not weight.requires_grad]


def beside(model: nn.Module, weights: Collection[str]) -> list[str]:
    """The names of the modules that are part of what rests where the `weights` of these names do not learn.

    A module all of whose weights are among them, with all that is inside it. What has no weights, such as dropout,
    goes with the module around it; where a part of that learns, with the next weights after it, or, if it is a
    normalisation, with those before it. "Next" is the order of registration.
    """
    model = bare(model)
    named, modules = set(weights), dict(model.named_modules())
    resting = {id(weight) for name, weight in model.named_parameters() if name in named}
    kinds = {name: {id(weight) in resting for weight in module.parameters()} for name, module in modules.items()}
    own = {name: {id(weight) in resting for weight in m.parameters(recurse=False)} for name, m in modules.items()}
    before, after = _nearest(modules, own), _nearest(reversed(modules), own)
    for name, module in modules.items():
        if not kinds[name] and name:
            around = kinds[name.rpartition(".")[0]]
            near = [before[name], after[name]] if isinstance(module, _NormBase) else [after[name]]
            kinds[name] = around if len(around) == 1 else next(filter(None, near), {False})
    return [name for name in modules if kinds[name] == {True}]


def _nearest(names: Iterable[str], own: Mapping[str, set[bool]]) -> dict[str, set[bool]]:
    """For each name what `own` says of the last one before it that has weights; an empty set where there is none."""
    found: dict[str, set[bool]] = {}
    last: set[bool] = set()
    for name in names:
        found[name] = last
        last = own[name] or last
    return found


@contextmanager
def holding(model: nn.Module, weights: Collection[str], modules: Collection[str]) -> Iterator[None]:
    """The `weights` of these names out of the graph of what is computed, and the `modules` in eval mode.

    The weights get no gradient at all, not one of zeros, so no optimizer moves them, by momentum or decay either.
    """
    model = bare(model)
    held = [model.get_parameter(name) for name in weights]
    held = [weight for weight in held if weight.requires_grad]
    quiet = [module for module in map(model.get_submodule, modules) if module.training]
    for weight in held:
        weight.requires_grad = False
    for module in quiet:
        module.training = False
    try:
        yield
    finally:
        for weight in held:
            weight.requires_grad = True
        for module in quiet:
            module.training = True


def scope_of(model: nn.Module) -> dict[str, Any]:
    """What does not learn, by name, as a checkpoint wants it."""
    return {"weights": still(model), "modules": dict(at_rest(model))}


def restore_scope(model: nn.Module, scope: Mapping[str, Any]) -> None:
    """Makes the model learn what it learned when `scope_of` was asked, no less and no more."""
    model = bare(model)
    frozen = set(scope["weights"])
    for name, weight in model.named_parameters():
        if weight.requires_grad == (name in frozen):
            weight.requires_grad_(name not in frozen)
            weight.grad = None
    modules = scope["modules"]
    for name, module in model.named_modules():
        wake(module, training=model.training)
        if name in modules:
            put_to_rest(module, modules[name])
