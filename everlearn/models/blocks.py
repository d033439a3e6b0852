"""The blocks of a model, from its input to its head: what depth is counted in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from torch import nn

from everlearn.models.heads import head_of
from everlearn.models.nets import MultiHead
from everlearn.models.norms import NORMS
from everlearn.models.views import bare, trainable
from everlearn.spec import nearest

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """A part of a model that is moved or frozen as a whole."""

    name: str
    weights: tuple[str, ...]
    """The names of its parameters, as `model.named_parameters()` has them."""
    head: bool = False
    """Whether it is the one that answers, or has the layer that does inside."""


def blocks(model: nn.Module, head: str | None = None) -> list[Block]:
    """The blocks of `model` in the order of registration, which should be that of its forward; the head comes last.

    Lists of modules (`nn.Sequential`, `nn.ModuleList`, `nn.ModuleDict` themselves) are looked into, and so is whatever
    has such a list inside and more than half as many weights as there are outside of embeddings, of which a model of
    many languages has the most; any other module is a block. A normalisation counts with the block before it, weights
    in no block (a class token, positions) with the first. The head is the linear layer named `head`, or the last one;
    of a `MultiHead`, all its heads. A model without linear layers has none.

    >>> [block.name for block in blocks(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)))]
    ['0', '2']
    """
    model = bare(model)
    layers = _answering(model, head)
    answer = {id(weight) for name in layers for weight in model.get_submodule(name).parameters()}
    found: list[tuple[str, list[str]]] = []
    last: list[str] = []
    place: dict[int, list[str]] = {}
    first: list[str] = []
    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    for name, module in _units(model, sum(w.numel() for w in model.parameters() if id(w) not in tables)):
        if any(layer == name or layer.startswith(f"{name}.") for layer in layers):
            home = last
            first = first or [name]
        elif found and isinstance(module, NORMS):
            home = found[-1][1]
        else:
            home = []
            found.append((name, home))
        for weight in module.parameters():
            place.setdefault(id(weight), home)
    for path, weight in model.named_parameters():
        home = last if id(weight) in answer else place.get(id(weight), found[0][1] if found else last)
        home.append(path)
    body = [Block(name, tuple(names)) for name, names in found if names]
    return [*body, Block(first[0] if first else "", tuple(last), head=True)] if last else body


def runs(model: nn.Module, count: int, head: str | None = None) -> list[list[str]]:
    """The weights of the head, and of the blocks before it in `count` - 1 runs, as even as can be, the last one first.

    >>> runs(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2, bias=False)), 2)
    [['2.weight'], ['1.weight', '1.bias', '0.weight', '0.bias']]
    """
    listed = blocks(model, head)[::-1]
    rest = len(listed) - 1
    cuts = [0, *(1 + rest * run // max(1, count - 1) for run in range(count))] if count > 1 else [0, len(listed)]
    return [[name for block in listed[a:b] for name in block.weights] for a, b in pairwise(cuts)]


def named_groups(model: nn.Module, text: str, head: str | None = None) -> list[tuple[float | None, list[str]]]:
    """The trainable weights that `head/layer4@0.2/layer3@0.5` names, group by group, and what stands behind each @.

    A name is that of a weight or a module, with * for any; "head" is the head, where no module is called so.

    >>> named_groups(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), "head/0@0.5")
    [(None, ['1.weight', '1.bias']), (0.5, ['0.weight', '0.bias'])]
    """
    learning = list(trainable(model))
    answering = [name for block in blocks(model, head) if block.head for name in block.weights]
    found: list[tuple[float | None, list[str]]] = []
    for part in text.split("/"):
        pattern, _, start = part.partition("@")
        names = [name for name in learning if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        names = names or [name for name in answering if pattern == "head" and name in learning]
        if not names:
            parts = {".".join(name.split(".")[:depth]) for name in learning for depth in range(1, name.count(".") + 2)}
            raise ValueError(
                f"no weight of {type(bare(model)).__name__} that learns is in {pattern!r}{nearest(pattern, parts)}; "
                f"its blocks are {', '.join(block.name for block in blocks(model, head))}"
            )
        if start and not _is_share(start):
            raise ValueError(f"what stands behind @ is a progress, from 0 to 1, but in {part!r} it is {start!r}")
        found.append((float(start) if start else None, names))
    return found


def _is_share(text: str) -> bool:
    return re.fullmatch(r"\d*\.?\d+", text) is not None and float(text) <= 1


def _answering(model: nn.Module, head: str | None) -> list[str]:
    """The names of the layers that answer."""
    if isinstance(model, MultiHead):
        return [f"heads.{name}" for name, _ in model.heads.named_children()]
    if head is None and not any(isinstance(module, nn.Linear) for module in model.modules()):
        return []
    return [head_of(model, head)[0]]


def _units(module: nn.Module, total: int, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules with weights that are looked into no further, in the order of registration."""
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        weights = sum(weight.numel() for weight in child.parameters())
        listed = type(child) in _LISTS
        if listed or (2 * weights > total and any(type(part) in _LISTS for part in child.modules())):
            yield from _units(child, total, path)
        elif weights:
            yield path, child
