"""Which weights an optimizer has: taken out, put in, and arranged again, each by its name."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


@runtime_checkable
class Grouping(Protocol):
    """A `MakeOptimizer` that has its own groups, and says in which of them weights that come later belong."""

    def __call__(self, weights: list[nn.Parameter], /) -> Optimizer:
        """An optimizer of `weights`."""
        ...

    def join(self, optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
        """Makes each of `weights`, none of which the optimizer has, a member of one group."""
        ...


def learning(named: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of the parameters that learn."""
    return [name for name, weight in named.items() if weight.requires_grad]


def drop_frozen(optimizer: Optimizer) -> None:
    """Takes out what no longer learns, and what is known of it; groups that are left empty go, but for the last."""
    for weight in [w for group in optimizer.param_groups for w in group["params"] if not w.requires_grad]:
        optimizer.state.pop(weight, None)
    for group in optimizer.param_groups:
        group["params"][:] = [weight for weight in group["params"] if weight.requires_grad]
    filled = [group for group in optimizer.param_groups if group["params"]]
    optimizer.param_groups[:] = filled or optimizer.param_groups[:1]


def take_in(
    optimizer: Optimizer, named: Mapping[str, nn.Parameter], offered: Collection[str], make: MakeOptimizer
) -> None:
    """Puts in what learns and is no member, each weight once; what was `offered` before and left out stays out."""
    members = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    new = [named[name] for name in learning(named) if name not in offered and id(named[name]) not in members]
    if new and isinstance(make, Grouping):
        make.join(optimizer, new)
    elif new:
        optimizer.add_param_group({"params": new})


def members_of(optimizer: Optimizer, named: Mapping[str, nn.Parameter]) -> list[list[str]]:
    """The names of the weights in each group."""
    names = {id(weight): name for name, weight in named.items()}
    return [[names[id(weight)] for weight in group["params"]] for group in optimizer.param_groups]


def arrange(optimizer: Optimizer, named: Mapping[str, nn.Parameter], members: Sequence[Sequence[str]]) -> None:
    """Gives the optimizer the groups that `members_of` told of; their settings come with its own state."""
    del optimizer.param_groups[max(1, len(members)) :]
    for _ in range(len(members) - len(optimizer.param_groups)):
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": []})
    for group, names in zip(optimizer.param_groups, members, strict=True):
        group["params"] = [named[name] for name in names]
