"""Learning rates by part: a head that learns faster, blocks that learn more slowly the deeper they lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.optim import LBFGS, Optimizer

from everlearn.learner import Learner
from everlearn.models.blocks import blocks
from everlearn.models.members import MakeOptimizer, learning, members_of
from everlearn.models.views import bare
from everlearn.spec import one_of

if TYPE_CHECKING:
    from rich.table import Table

Decayed = Literal["all", "matrices"]


@dataclass(frozen=True)
class Grouped:
    """Makes the optimizers that `make` makes, with groups: what `grouped` gives."""

    make: MakeOptimizer
    model: nn.Module
    head: float = 1.0
    decay: float = 1.0
    decayed: Decayed = "all"
    head_name: str | None = None

    def __call__(self, weights: list[nn.Parameter]) -> Optimizer:
        """An optimizer of `weights`, each of which is in one group, by identity."""
        self._refuse_copies(weights)
        optimizer = self.make(weights)
        if isinstance(optimizer, LBFGS):
            raise TypeError("LBFGS has one group and one rate for all weights; take another optimizer")
        if len(optimizer.param_groups) != 1:
            raise ValueError(
                f"the factory of rates by part must give all weights to one {type(optimizer).__name__} group, but this "
                f"one made {len(optimizer.param_groups)}"
            )
        (whole,) = optimizer.param_groups
        if self.decayed == "matrices" and "weight_decay" not in whole:
            raise ValueError(
                f'{type(optimizer).__name__} has no weight decay that decayed="matrices" could take from the others'
            )
        parts = self._parts(whole["params"])
        optimizer.param_groups[:] = []
        for name, factor, kept, members in parts:
            optimizer.add_param_group(whole | self._options(whole, name, factor, kept=kept) | {"params": members})
        return optimizer

    def join(self, optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
        """Puts weights that come later where they belong: into the group of their part, or into a new one."""
        whole = optimizer.defaults
        there = {group.get("name"): group for group in optimizer.param_groups}
        for name, factor, kept, members in self._parts(weights):
            options = self._options(whole, name, factor, kept=kept)
            if options["name"] in there:
                there[options["name"]]["params"] += members
            else:
                optimizer.add_param_group(options | {"params": members})

    def _options(self, whole: dict[str, Any], name: str, factor: float, *, kept: bool) -> dict[str, Any]:
        """What sets a group apart; `kept` says whether weight decay is."""
        rate: dict[str, Any] = {"name": name if kept else f"{name}, no decay", "lr": whole["lr"] * factor}
        return rate if kept else rate | {"weight_decay": 0.0}

    def _parts(self, weights: list[nn.Parameter]) -> Iterator[tuple[str, float, bool, list[nn.Parameter]]]:
        """The groups: the body or its blocks, the head, and what the model does not have."""
        model = bare(self.model)
        listed = blocks(model, self.head_name)
        deepest = len(listed) if listed and not listed[-1].head else len(listed) - 1
        place: dict[int, tuple[str, float]] = {}
        for depth, block in enumerate(listed):
            name = "head" if block.head else "body" if self.decay == 1 else block.name
            factor = self.head if block.head else self.decay ** (deepest - depth)
            place |= {id(model.get_parameter(path)): (name, factor) for path in block.weights}
        parts: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
        for weight in dict.fromkeys(weights):
            name, factor = place.get(id(weight), ("new", self.head))
            kept = self.decayed == "all" or weight.dim() > 1
            parts.setdefault((name, factor, kept), []).append(weight)
        return ((*key, members) for key, members in parts.items())

    def _refuse_copies(self, weights: list[nn.Parameter]) -> None:
        own = [weight for weight in bare(self.model).parameters() if weight.requires_grad]
        given = weights[: len(own)]
        if own and not {*map(id, own)} & {*map(id, weights)} and [w.shape for w in given] == [w.shape for w in own]:
            raise ValueError(
                f"these weights look like those of the {type(self.model).__name__} that the rates are of, but are of a "
                "copy of it, so none has a name; make the rates of the model that learns: grouped(..., model)"
            )


def grouped(
    make: MakeOptimizer,
    model: nn.Module,
    *,
    head: float = 1.0,
    decay: float = 1.0,
    decayed: Decayed = "all",
    head_name: str | None = None,
) -> Grouped:
    """A factory as `Learner(optimizer=...)` wants it: what `make` makes, with a learning rate for each part of `model`.

    The head (the linear layer `head_name`, or the last one, with the block it is in) has `head` times the rate, and so
    has what `model` does not know: heads of new tasks, modules of a method. With a `decay`, the l-th of L blocks
    before the head (`everlearn.models.blocks`) has decay^(L-l+1) times the rate, which is written into `lr` itself,
    where optimizers and schedulers look. With `decayed="matrices"` weight decay is for weights of two dimensions or
    more: not for biases and normalisations.

    >>> import torch
    >>> from functools import partial
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> optimizer = grouped(partial(torch.optim.SGD, lr=0.1), model, head=10)(list(model.parameters()))
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('body', 0.1), ('head', 1.0)]
    """
    if not (0 <= head < float("inf")) or not 0 < decay <= 1:
        raise ValueError(
            f"head is a factor of at least 0, and decay one above 0 and up to 1, but they are {head} and {decay}"
        )
    one_of("choice of what is decayed", decayed, ("all", "matrices"))
    return Grouped(make, model, head, decay, decayed, head_name)


@dataclass(frozen=True)
class Group:
    """A group of an optimizer."""

    name: str
    rate: float
    """The learning rate: of the next step, or before the first one, of that."""
    weight_decay: float | None
    parameters: int
    names: tuple[str, ...]
    """Of its weights, in the model or, with the name of its field, in the method."""


@dataclass(frozen=True)
class Groups:
    """The groups of a learner's optimizer."""

    groups: tuple[Group, ...]

    def table(self) -> "Table":
        """For a terminal: `rich.print(learner_groups(learner).table())`."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("group", overflow="fold")
        for title in ("learning rate", "weight decay", "parameters"):
            table.add_column(title, justify="right")
        table.add_column("weights", overflow="fold")
        for group in self.groups:
            decay = "" if group.weight_decay is None else f"{group.weight_decay:.4g}"
            some = ", ".join(group.names[:4]) + (f" and {len(group.names) - 4} more" if len(group.names) > 4 else "")
            table.add_row(Text(group.name), f"{group.rate:.4g}", decay, f"{group.parameters:,}", Text(some))
        return table

    def __str__(self) -> str:
        return "; ".join(f"{group.name}: lr {group.rate:.4g}, {group.parameters:,} parameters" for group in self.groups)


def learner_groups(learner: Learner) -> Groups:
    """What the optimizer of `learner` has, group by group; before the first experience, what it would have."""
    optimizer, named = learner.optimizer, learner._named()  # noqa: SLF001
    if optimizer is None:
        optimizer = learner.make_optimizer([named[name] for name in learning(named)])
    members = members_of(optimizer, named)
    return Groups(
        tuple(
            Group(
                str(group.get("name", place)),
                float(group["lr"]),
                float(group["weight_decay"]) if "weight_decay" in group else None,
                sum(weight.numel() for weight in group["params"]),
                tuple(name.removeprefix("model.") for name in names),
            )
            for place, (group, names) in enumerate(zip(optimizer.param_groups, members, strict=True))
        )
    )
