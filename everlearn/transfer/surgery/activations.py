"""Other activations in a trained model, and how far that moves it."""

from collections.abc import Callable, Mapping
from copy import deepcopy

from torch import nn

from everlearn.models.views import bare
from everlearn.objective import Objective, classify
from everlearn.transfer.surgery.checked import Given, Outcome, SurgeryError, named, operation, put


def swap(
    model: nn.Module,
    changes: Mapping[type[nn.Module] | str, nn.Module | Callable[[], nn.Module]],
    batch: Given,
    *,
    objective: Objective = classify,
) -> Outcome:
    """Puts other activations in the place of those of a type, or of a name, and says how far the answers move.

    `changes` maps types and dotted names (which come first) to a module, of which each place gets a copy, or to what
    makes one: `{nn.ReLU: nn.GELU, "features.1": nn.LeakyReLU(0.2)}`. A type is that very type. This does not preserve
    the function, and nothing is fitted afterwards to make up for it: train on. Answers that are not finite, or a
    type or name of which there is none, are a SurgeryError, and nothing is changed. Activations that a forward pass
    calls as functions (`F.relu`) are no modules, and stay.
    """
    model = bare(model)
    for key in changes:
        if isinstance(key, str):
            _activation(key, named(model, key))
    chosen = {
        name: changes[name] if name in changes else changes[type(module)]
        for name, module in model.named_modules(remove_duplicate=False)
        if name and (name in changes or type(module) in changes)
    }
    found = {type(model.get_submodule(name)) for name in chosen}
    if missing := [key for key in changes if isinstance(key, type) and key not in found]:
        raise SurgeryError(
            f"{type(model).__name__} has no module of type {missing[0].__name__} to swap; one that its forward calls "
            "as a function is none"
        )
    made: dict[int, nn.Module] = {}  # one module in several places stays one
    with operation(model, batch, objective, exact=False) as outcome:
        for name, change in chosen.items():
            old = model.get_submodule(name)
            _activation(name, old)
            if id(old) not in made:
                made[id(old)] = (deepcopy(change) if isinstance(change, nn.Module) else change()).train(old.training)
            outcome.changed[name] = f"{type(old).__name__} to {type(made[id(old)]).__name__}"
        for name, new in {name: made[id(model.get_submodule(name))] for name in chosen}.items():
            put(model, name, new)
    return outcome


def _activation(name: str, module: nn.Module) -> None:
    if type(module).__module__ != nn.ReLU.__module__ or isinstance(module, nn.MultiheadAttention):
        raise SurgeryError(
            f"{name!r} is a {type(module).__name__} and no activation of torch.nn; see insert and remove"
        )
