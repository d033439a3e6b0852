"""Freezing that is true: what is frozen gets no gradient, is in no group of an optimizer, and rests in eval mode.

It is a choice of scope, made by the user and kept in the model itself; what a method does to hold the past is another
thing (`everlearn.methods.Freeze` is a bound of continual learning, and leaves the scope of the model as it is).
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

from torch import nn

from everlearn.border import positive
from everlearn.models.blocks import Block, blocks
from everlearn.models.scope import Norm, at_rest, beside, has_statistics, put_to_rest, still, wake
from everlearn.models.views import bare
from everlearn.spec import one_of
from everlearn.transfer.frozen import Frozen, frozen_report

NORMS = ("frozen", "adapt", "recompute")


def freeze(
    model: nn.Module,
    *names: str,
    first: int | None = None,
    share: float | None = None,
    but: str | Iterable[str] = (),
    norm: Norm = "frozen",
    head: str | None = None,
) -> Frozen:
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
        if norm == "adapt" and has_statistics(module):
            wake(module, training=model.training)
        else:
            put_to_rest(module, norm if has_statistics(module) else "frozen")
    return frozen_report(model)


def freeze_as(model: nn.Module, words: Iterable[str], *, norm: str = "frozen", head: str | None = None) -> Frozen:
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


def thaw(model: nn.Module, *names: str, last: int | None = None, head: str | None = None) -> Frozen:
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
    if not body:
        raise ValueError(f"{type(model).__name__} has no block before its head, so there is nothing to freeze but that")
    if first is not None:
        if not 1 <= first <= len(body):
            raise ValueError(
                f"{first} blocks shall be frozen, but {type(model).__name__} has {len(body)} before its head: "
                f"{', '.join(block.name for block in body)}"
            )
        body = body[:first]
    elif share is not None:
        if not 0 < share < 1:
            raise ValueError(f"a share of {share} is to be frozen; expected more than 0 and less than 1, as in 0.5")
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
            f"share={share} is less than the first block, {body[0].name!r}, which has "
            f"{sizes[0]:,} of {total:,} parameters; give a larger share, or name what to freeze"
        )
    return body[:count]


def _matched(model: nn.Module, patterns: Iterable[str]) -> tuple[list[str], set[str]]:
    """The weights that the patterns match, or the modules around them; and matched modules that have no weights.

    What is shared has several names. Each of them matches; what is matched has the first, as elsewhere in the project.
    """
    own = {id(weight): name for name, weight in model.named_parameters()}
    weights = {name: own[id(weight)] for name, weight in model.named_parameters(remove_duplicate=False)}
    places = {id(module): name for name, module in model.named_modules()}
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
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
        found |= {first for name, first in weights.items() if fnmatchcase(name, pattern) or name.startswith(roots)}
        bare_modules |= {
            places[id(module)]
            for name, module in modules.items()
            if f"{name}.".startswith(roots) and next(module.parameters(), None) is None
        }
    return [name for name in own.values() if name in found], bare_modules
