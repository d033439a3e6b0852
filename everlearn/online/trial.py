"""Growth on trial: a learner that grew for rows which are then refused has never grown."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import links
from everlearn.models.heads import Roomy
from everlearn.models.views import bare


@contextmanager
def on_trial(learner: Learner, inputs: int) -> Iterator[None]:
    """If the block fails, weights, optimizer, statistics and memories are what they were, with `inputs` inputs.

    Nothing is copied, however large all that is: growing makes new Parameters and buffers and leaves the old ones as
    they are, so it is enough to remember those; and the weights that stay are changed by nothing before the step, which
    is the last thing that can be refused. Memories are cut back. What a memory has drawn, and the global generators,
    have gone on, as in any step that is refused.
    """
    model, optimizer = bare(learner.model), learner.optimizer
    modules = [(module, _parts(module)) for module in model.modules()]
    known = None if optimizer is None else _known(optimizer)
    fields = [(method, dict(vars(method))) for method in links(learner.method)]
    offered, number = learner._offered, learner.number  # noqa: SLF001
    try:
        yield
    except BaseException:
        for module, parts in modules:
            _put_back(module, parts)
        if optimizer is not None and known is not None:
            _forget(optimizer, *known)
        for method, values in fields:
            vars(method).update(values)
            for value in values.values():
                if isinstance(value, Memory):
                    value.narrow("x", inputs)
        learner.optimizer, learner.number, learner._offered = optimizer, number, offered  # noqa: SLF001
        learner._live = None  # noqa: SLF001 (what runs around the model was made for the larger one)
        raise


_TABLES = ("_parameters", "_buffers")


def _parts(module: nn.Module) -> dict[str, Any]:
    """Its attributes, and which Parameters and buffers it has."""
    return vars(module) | {name: dict(vars(module)[name]) for name in _TABLES}


def _put_back(module: nn.Module, parts: dict[str, Any]) -> None:
    if isinstance(module, nn.Linear) and isinstance(module, Roomy) and module.out_features > parts["out_features"]:
        weight, bias = module.weight.detach()[:0], module.weight.detach().new_empty(0)
        module.refit(parts["out_features"], weight, bias)  # rows in reserve were filled in place
    for name in _TABLES:
        table = vars(module)[name]
        table.clear()
        table.update(parts[name])
    vars(module).update({name: value for name, value in parts.items() if name not in _TABLES and name != "training"})


def _known(optimizer: Optimizer) -> tuple[list[tuple[dict[str, Any], list[Any]]], dict[Any, Any]]:
    """Its groups with their weights, and what it knows of each weight."""
    return [(group, list(group["params"])) for group in optimizer.param_groups], dict(optimizer.state)


def _forget(optimizer: Optimizer, groups: Sequence[tuple[dict[str, Any], list[Any]]], state: dict[Any, Any]) -> None:
    """Makes it what it was when it was asked what it knows."""
    optimizer.param_groups[:] = [group for group, _ in groups]
    for group, weights in groups:
        group["params"][:] = weights
    optimizer.state.clear()
    optimizer.state.update(state)
