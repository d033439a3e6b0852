"""Freezing that is true: what is frozen gets no gradient, is in no group of an optimizer, and rests in eval mode.

It is a choice of scope, made by the user and kept in the model itself; what a method does to hold the past is another
thing (`everlearn.methods.Freeze` is a bound of continual learning, and leaves the scope of the model as it is).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from everlearn.batch import Rows, length, move, unlabeled
from everlearn.border import positive
from everlearn.data.order import batches
from everlearn.data.transforms import View
from everlearn.models.blocks import Block, blocks
from everlearn.models.scope import Norm, at_rest, beside, put_to_rest, still, wake
from everlearn.models.views import bare, evaluating
from everlearn.objective import Objective, Viewed, classify
from everlearn.randomness import unmoved
from everlearn.spec import one_of

if TYPE_CHECKING:
    from rich.table import Table

NORMS = ("frozen", "adapt", "recompute")


def freeze(
    model: nn.Module,
    *names: str,
    first: int | None = None,
    share: float | None = None,
    but: str | Iterable[str] = (),
    norm: Norm = "frozen",
    head: str | None = None,
) -> "Frozen":
    """Freezes a part of `model`, in addition to what is frozen already, and says what is frozen now.

    The part is one of these: `names` of modules or parameters, with * and ? for any ("layer1", "*.bias"); the `first`
    so many blocks (`everlearn.models.blocks`); as many first blocks as have no more than the `share` of all weights;
    or, without any of them, all but the head (the linear layer `head`, or the last). What the names in `but` match is
    left as it is.

    Weights in it get no gradient. Modules in it are in eval mode, and stay there when `train()` is called: dropout is
    off. Batch normalisation is eval mode too with `norm="frozen"`; with "adapt" its statistics go on and its weights
    do not; with "recompute" it is as with "frozen" until you call `recompute_statistics`. A learner takes note when
    its next experience begins.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> freeze(model).share
    0.6521739130434783
    """
    model = bare(model)
    one_of("policy for batch normalisation", norm, NORMS)
    chosen, inside = _chosen(model, names, first, share, head)
    kept, outside = _matched(model, [but] if isinstance(but, str) else list(but))
    chosen = [name for name in chosen if name not in set(kept)]
    frozen = {*chosen, *still(model)}
    if all(name in frozen for name, _ in model.named_parameters()):
        raise ValueError(
            f"this freezes all {len(frozen)} parameters of {type(model).__name__}, which leaves nothing to train; "
            "freeze fewer, or except some with but="
        )
    before, after = beside(model, still(model)), {*beside(model, frozen), *inside}.difference(outside)
    for name in chosen:
        weight = model.get_parameter(name)
        weight.requires_grad = False
        weight.grad = None
    own = {*inside, *(name.rpartition(".")[0] for name in chosen)}
    for name in after:
        module = model.get_submodule(name)
        if name in before and name not in own:
            continue
        if norm == "adapt" and _has_statistics(module):
            wake(module, training=model.training)
        else:
            put_to_rest(module, norm if _has_statistics(module) else "frozen")
    return frozen_report(model)


def freeze_as(model: nn.Module, words: Iterable[str], *, norm: str = "frozen", head: str | None = None) -> "Frozen":
    """Freezes what a user typed: names, or else one share (0.5), one number of blocks (3), or body: all but the head.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> freeze_as(model, ["1"]) == freeze_as(model, ["body"])
    True
    """
    words = list(words)
    policy: Any = one_of("policy for batch normalisation", norm, NORMS)
    if words == ["body"]:
        return freeze(model, norm=policy, head=head)
    if len(words) == 1 and words[0].isdecimal():
        return freeze(model, first=int(words[0]), norm=policy, head=head)
    if len(words) == 1 and re.fullmatch(r"\d*\.\d+", words[0]):
        return freeze(model, share=float(words[0]), norm=policy, head=head)
    return freeze(model, *words, norm=policy, head=head)


def thaw(model: nn.Module, *names: str, last: int | None = None, head: str | None = None) -> "Frozen":
    """Lets a part of `model` learn again, and says what is frozen then.

    The part is what the `names` match, the `last` so many blocks, the head included, or, without any of them, all.
    A learner's optimizer takes each weight in once when the next experience begins, and keeps what it knows of the
    others; so does one that was resumed.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> freeze(model).share > thaw(model, "0").share
    True
    """
    model = bare(model)
    if names and last is not None:
        raise ValueError(f"names and last={last} say what to thaw in two ways; give one of them")
    if last is not None:
        positive(last=last)
        chosen, inside = [name for block in blocks(model, head)[-last:] for name in block.weights], set[str]()
    else:
        chosen, inside = _matched(model, names or ["*"])
    for name in chosen:
        weight = model.get_parameter(name)
        if weight.is_floating_point() or weight.is_complex():
            weight.requires_grad_()
    resting = set(beside(model, still(model)))
    for name in at_rest(model):
        if name not in resting or name in inside:
            wake(model.get_submodule(name), training=model.training)
    return frozen_report(model)


@dataclass(frozen=True)
class Part:
    """A block of a model, and what of it is frozen."""

    name: str
    parameters: int
    frozen: int
    norm: str
    """Of its batch normalisation: "learns", or the policy it is frozen by; "" where it has none."""
    mode: str
    """"rests" if all in it stays in eval mode whoever calls `train()`, "partly", or "" if nothing does."""
    head: bool = False


@dataclass(frozen=True)
class Frozen:
    """What of a model is frozen, block by block."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def frozen(self) -> int:
        """How many of them are."""
        return sum(part.frozen for part in self.parts)

    @property
    def share(self) -> float:
        """How much of the model they are, from 0 to 1."""
        return self.frozen / max(self.parameters, 1)

    def table(self) -> "Table":
        """For a terminal: `rich.print(report.table())`."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
        table.add_column("part", "all", overflow="fold")
        table.add_column("parameters", f"{self.parameters:,}", justify="right")
        table.add_column("frozen, %", f"{100 * self.share:.1f}", justify="right")
        table.add_column("batch norm")
        table.add_column("mode")
        for part in self.parts:
            percent = f"{100 * part.frozen / part.parameters:.1f}" if part.frozen else ""
            note = " (head)" if part.head and part.name != "head" else ""
            name = Text(part.name or "(the model)").append(note, style="dim")
            table.add_row(name, f"{part.parameters:,}", percent, part.norm, part.mode)
        return table

    def __str__(self) -> str:
        most = [part.name for part in self.parts if part.frozen == part.parameters]
        return (
            f"{self.frozen:,} of {self.parameters:,} parameters ({100 * self.share:.1f} %) are frozen"
            + (f", among them all of {', '.join(most[:8])}" if most else "")
            + (f" and {len(most) - 8} more blocks" if len(most) > 8 else "")
        )


def frozen_report(model: nn.Module, head: str | None = None) -> Frozen:
    """What of `model` is frozen: read off the model as it is, whoever froze it."""
    model = bare(model)
    return Frozen(tuple(_parts(model, blocks(model, head))))


def recompute_statistics(
    model: nn.Module,
    rows: Rows,
    objective: Objective = classify,
    *,
    view: View | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> int:
    """Makes the statistics of batch normalisation those of `rows`, in one pass; returns how many layers have new ones.

    Each mean and variance is the average of those of all batches, weighted by their rows. Layers that are frozen with
    `norm="frozen"` are left as they are, and so is all else: weights, modes, random generators. `view` is that of the
    learner; rows are not augmented.
    """
    model, count = bare(model), len(rows)
    resting = at_rest(model)
    layers = [
        module for name, module in model.named_modules() if _has_statistics(module) and resting.get(name) != "frozen"
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no batch normalisation whose statistics could be computed anew: it has none, "
            'or froze them with norm="frozen"; freeze them with norm="recompute"'
        )
    if count < 2:
        raise ValueError(f"statistics of a batch need at least 2 rows, but there are {count}")
    size = min(batch_size, count)
    while count % size == 1:  # the variance of a single row is not known
        size += 1
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    seen = objective if view is None else Viewed(objective, view)
    momenta = [layer.momentum for layer in layers]
    with torch.no_grad(), unmoved(device), evaluating(model):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.training = True
            done = 0
            for batch in batches(rows, torch.arange(count), size, workers=workers):
                taken = length(batch)
                done += taken
                for layer in layers:
                    layer.momentum = taken / done
                seen(model, move(unlabeled(batch), device))
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum, layer.training = momentum, False
    return len(layers)


def _chosen(
    model: nn.Module, names: tuple[str, ...], first: int | None, share: float | None, head: str | None
) -> tuple[list[str], set[str]]:
    """The names of the weights that these words mean, and of modules without weights that they name."""
    given = {"names": names or None, "first": first, "share": share}
    said = [f"{key}={value}" for key, value in given.items() if value is not None]
    if len(said) > 1:
        raise ValueError(f"{' and '.join(said)} say what to freeze in several ways; give one of them")
    if names:
        return _matched(model, names)
    listed = blocks(model, head)
    body = [block for block in listed if not block.head]
    if first is not None:
        positive(first=first)
        if first > len(body):
            raise ValueError(
                f"first={first} blocks, but {type(model).__name__} has {len(body)} before its head: "
                f"{', '.join(block.name for block in body)}"
            )
        body = body[:first]
    elif share is not None:
        if not 0 < share < 1:
            raise ValueError(f"share is how much of the model is frozen, between 0 and 1, but is {share}")
        body = _within(model, body, share)
    elif len(body) == len(listed):
        raise ValueError(
            f"{type(model).__name__} has no linear layer that could be the head, so there is no all but the head; name "
            "what to freeze"
        )
    return [name for block in body for name in block.weights], set()


def _within(model: nn.Module, body: list[Block], share: float) -> list[Block]:
    """As many first blocks as have no more than this share of all weights."""
    total = sum(weight.numel() for weight in model.parameters())
    sizes = [sum(model.get_parameter(name).numel() for name in block.weights) for block in body]
    count = sum(place <= share * total for place in accumulate(sizes))
    if not count:
        raise ValueError(
            f"share={share} is less than the first block, {body[0].name if body else ''!r}, which has "
            f"{sizes[0] if sizes else 0:,} of {total:,} parameters; give a larger share, or name what to freeze"
        )
    return body[:count]


def _matched(model: nn.Module, patterns: Iterable[str]) -> tuple[list[str], set[str]]:
    """The weights that the patterns match, or the modules around them; and matched modules that have no weights."""
    weights = [name for name, _ in model.named_parameters()]
    modules = {name: module for name, module in model.named_modules() if name}
    found: set[str] = set()
    bare_modules: set[str] = set()
    for pattern in patterns:
        roots = tuple(f"{name}." for name in modules if fnmatchcase(name, pattern))
        if not roots and not any(fnmatchcase(name, pattern) for name in weights):
            near = get_close_matches(pattern, [*modules, *weights], n=3, cutoff=0.0)
            raise ValueError(
                f"{pattern!r} matches no module and no parameter of {type(model).__name__}; the nearest names are "
                f"{', '.join(map(repr, near))}"
            )
        found |= {name for name in weights if fnmatchcase(name, pattern) or name.startswith(roots)}
        bare_modules |= {
            name
            for name, module in modules.items()
            if f"{name}.".startswith(roots) and next(module.parameters(), None) is None
        }
    return [name for name in weights if name in found], bare_modules


def _has_statistics(module: nn.Module) -> TypeGuard[_NormBase]:
    return isinstance(module, _NormBase) and module.running_mean is not None


def _homes(model: nn.Module, listed: list[Block]) -> list[list[str]]:
    """For each block, the modules in it whose mode matters: those with weights, with statistics, and dropout."""
    home = {name: place for place, block in enumerate(listed) for name in block.weights}
    found: list[list[str]] = [[] for _ in listed]
    last = 0
    waiting: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{part}".lstrip(".") for part, _ in module.named_parameters(recurse=False)]
        inside = [place for place, block in enumerate(listed) if block.name and f"{name}.".startswith(f"{block.name}.")]
        places = [home[weight] for weight in own if weight in home]
        if places or inside:
            last = (places or inside)[0]
            found[last] += [*waiting, name] if own or _matters(module) else waiting
            waiting = []
        elif _has_statistics(module):
            found[last].append(name)
        elif _matters(module):
            waiting.append(name)
    found[-1] += waiting
    return found


def _matters(module: nn.Module) -> bool:
    return isinstance(module, _NormBase | _DropoutNd)


def _parts(model: nn.Module, listed: list[Block]) -> Iterator[Part]:
    resting = at_rest(model)
    for block, names in zip(listed, _homes(model, listed), strict=True):
        weights = [model.get_parameter(name) for name in block.weights]
        norms = {
            _policy(module, resting.get(name)) for name in names if _has_statistics(module := model.get_submodule(name))
        }
        quiet = sum(name in resting for name in names)
        yield Part(
            block.name,
            sum(weight.numel() for weight in weights),
            sum(weight.numel() for weight in weights if not weight.requires_grad),
            ", ".join(sorted(norms)),
            "rests" if names and quiet == len(names) else "partly" if quiet else "",
            block.head,
        )


def _policy(module: _NormBase, rest: Norm | None) -> str:
    if rest is not None:
        return rest
    return "learns" if any(weight.requires_grad for weight in module.parameters()) else "adapt"
