"""How a base is tuned, by name: the method, the optimizer and the weights that a strategy stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from everlearn.methods import METHODS
from everlearn.spec import Spec, one_of, parse_chain
from everlearn.transfer.strategy import Case, Proposal
from everlearn.transfer.strategy import propose as of_case
from everlearn.workspace.arrivals import Data
from everlearn.workspace.config import Config
from everlearn.workspace.model import Loaded

OPTIMIZER = "sgd:lr=0.01,momentum=0.9"
"""What trains where nothing is said."""


@dataclass(frozen=True)
class Recipe:
    """What a strategy stands for."""

    method: str = "naive"
    optimizer: str = OPTIMIZER
    weights: str = ""
    """What is taken for --weights, whatever was given; empty for what was."""


_SLOW = "sgd:lr=0.001,momentum=0.9"
_HEAD = "sgd:lr=0.001,momentum=0.9,head=10"
STRATEGIES = {
    "scratch": Recipe(weights="none"),
    "probe": Recipe("probe"),
    "finetune": Recipe(optimizer=_HEAD),
    "lpft": Recipe("lpft", _SLOW),
    "l2sp": Recipe("l2sp", _HEAD),
    "delta": Recipe("delta", _HEAD),
    "gradual": Recipe("thaw", _HEAD),
    "surgical": Recipe("autorgn"),
    "lora": Recipe("lora"),
}
"""By name. The name of any method of tuning or adaptation is a strategy, too: the method, with the head first."""


def settle(config: Config, proposal: Proposal | None = None) -> Config:
    """The config with the method, the optimizer and the weights that its strategy says, or else the `proposal`.

    A strategy that is unknown, or that has nothing to work with, is a ValueError.
    """
    if not config.strategy:
        return replace(config, optimizer=config.optimizer or OPTIMIZER)
    recipe = recipe_of(proposal.name if proposal is not None else config.strategy)
    chain = [text for text in (config.method, recipe.method) if text not in ("", "naive")]
    _sensible(config, "+".join(chain))
    return replace(
        config,
        method="+".join(chain) or "naive",
        optimizer=config.optimizer or recipe.optimizer,
        weights=recipe.weights or config.weights,
    )


def recipe_of(strategy: str) -> Recipe:
    """What a strategy stands for, or several joined by +, of which the first has the say about optimizer and weights.

    A name that is unknown is a ValueError that lists all.

    >>> recipe_of("lpft:settled=true+l2sp")
    Recipe(method='lpft:settled=True+l2sp', optimizer='sgd:lr=0.001,momentum=0.9', weights='')
    """
    specs = parse_chain(strategy)
    for spec in specs:
        one_of("strategy", spec.name, known())
    recipes = [STRATEGIES.get(spec.name, Recipe(spec.name, _HEAD)) for spec in specs]
    chain = []
    for spec, recipe in zip(specs, recipes, strict=True):
        if spec.settings and recipe.method == "naive":
            raise ValueError(f"the strategy {spec.name} has no settings, but {spec} gives it some; leave them out")
        if recipe.method != "naive":
            chain.append(str(Spec(recipe.method, spec.settings)))
    return replace(recipes[0], method="+".join(chain) or "naive")


def _sensible(config: Config, method: str) -> None:
    names = [spec.name for spec in parse_chain(method)] if method else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"--strategy and --method give {twice[0]} twice; a method stands once, with its settings: "
            f"--strategy {twice[0]}:key=value"
        )
    for name in adapting(method):
        if not config.unlabelled:
            raise ValueError(
                f"{name} adapts a model to rows without labels, and there are none; give them by --unlabelled, or "
                "choose a strategy for labelled rows: finetune, lpft, probe, ..."
            )


def adapting(method: str) -> list[str]:
    """The methods of a chain that learn from rows without labels."""
    names = [spec.name for spec in parse_chain(method)] if method else []
    return [name for name in names if name in METHODS and METHODS[name].card.family == "adaptation"]


def propose(config: Config, data: Data, loaded: Loaded) -> Proposal:
    """The strategy that the amount and the kind of data speak for, and why."""
    labelled = [each for each in data.arrivals if each.reference is None]
    return of_case(
        Case(
            rows_per_class=sum(len(each.train) for each in labelled) / max(len(data.classes), 1),
            classes=len(data.classes),
            parameters=sum(weight.numel() for weight in loaded.model.parameters()),
            labelled=not config.unlabelled,
            source=bool(config.unlabelled),
            regression=config.task == "regression",
            pretrained=config.weights != "none" and (loaded.base is None or loaded.base.weights is not None),
        )
    )


def known() -> Sequence[str]:
    """The names of all strategies."""
    families = ("tuning", "adaptation")
    methods = (name for name, method in METHODS.items() if method.card.family in families)
    return list(dict.fromkeys((*STRATEGIES, *methods)))
