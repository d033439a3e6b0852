"""Heads by the names of their classes: kept, new, dropped and in another order, for classifiers and detectors."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import log
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from everlearn.models.classes import Classes
from everlearn.models.heads import drawn, follow
from everlearn.models.padded import PaddedLinear
from everlearn.models.views import bare, tap
from everlearn.objective import Objective, classify
from everlearn.randomness import mix
from everlearn.transfer.surgery.checked import Given, SurgeryError, alone, ask, named, replace, tolerance, undone
from everlearn.transfer.surgery.parts import Dense, Detecting, Part, Scoring, class_parts


@runtime_checkable
class Labelled(Protocol):
    """A model of transformers, the loss of which asks how many labels there are."""

    num_labels: int
    config: Any


@dataclass(frozen=True)
class Reclassed:
    """What became of the classes of a head."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    background: bool
    """Whether row 0 stands for none of them, so that the label of the first name is 1."""
    layers: tuple[str, ...]
    moved: float
    """How far the scores of kept classes moved on the batch; 0 if none was given."""

    def __str__(self) -> str:
        return (
            f"kept {list(self.kept)}, new {list(self.new)}, dropped {list(self.dropped)}, in {', '.join(self.layers)}; "
            f"labels begin at {int(self.background)}; kept scores differ by at most {self.moved:.1e}"
        )


def reclass(
    model: nn.Module,
    before: Sequence[str] | Classes,
    after: Sequence[str] | Classes,
    batch: Given | None = None,
    *,
    head: str | None = None,
    parts: Sequence[Part] | None = None,
    seed: int = 0,
    objective: Objective = classify,
    tol: float | None = None,
    optimizer: Optimizer | None = None,
) -> Reclassed:
    """Makes the outputs of the head, which stood for the classes `before`, stand for those named in `after`.

    A class in both keeps its rows bit for bit wherever it stands; the rows of others are dropped; new rows are drawn
    as those of `everlearn.models.grow`, from a generator of their own. Appending classes is `grow`. The optimizer's
    state (momentum, moments) goes with the rows. Layers stay the same objects, with new Parameters.

    The head is the linear layer named `head`, or else what is found: the class layers of torchvision's Faster R-CNN
    (boxes go along), Mask R-CNN, RetinaNet, FCOS and SSD, or the last linear layer; `parts` names other layouts.
    Detectors count one row more than there are names: row 0, the background (in RetinaNet and FCOS: nothing), which
    stays, so that labels begin at 1. If the names cover all rows, the first must be the same before and after. With
    `batch`, the kept scores are compared on it: if they move, all is undone, and a SurgeryError.
    """
    model = bare(model)
    old, new = (tuple(Classes(names).names) for names in (before, after))  # refuses a name that comes twice
    if isinstance(optimizer, LBFGS):
        raise TypeError("LBFGS cannot follow rows that move: its history is one vector; make a new optimizer")
    parts = class_parts(model, head) if parts is None else parts
    background = _background(parts, old, new)
    origin = torch.tensor([old.index(name) if name in old else -1 for name in new], dtype=torch.int64)
    if background:
        origin = torch.cat([torch.zeros(1, dtype=torch.int64), origin + (origin >= 0)])
    alone(model, {part.name: None for part in parts})
    scores = [] if batch is None else _scores(model, parts, batch, objective)
    weights, places, moved = dict(model.named_parameters()), {}, 0.0
    with undone(model):
        for number, part in enumerate(parts):
            places[part.name] = _rearrange(model, part, origin, (seed, number) if number else (seed,))
        _count(model, len(origin))
        if batch is not None:
            moved = _moved(scores, _scores(model, parts, batch, objective), parts, origin)
            bound = (tolerance(model) if tol is None else tol) * max(
                (float(s.abs().max()) for s in scores if s.numel()), default=0.0
            )
            if not moved <= bound:
                raise SurgeryError(f"the scores of kept classes would move by {moved:.1e}; all was undone")
    if optimizer is not None:
        now = dict(model.named_parameters())
        for name, weight in weights.items():
            if now[name] is not weight:
                _carry_rows(optimizer, weight, now[name], places[name.rpartition(".")[0]])
    if isinstance(model, Labelled) and model.num_labels == len(old):
        _label(model, new)
    return _told(old, new, tuple(places), moved, background=background)


def _told(
    old: Sequence[str], new: Sequence[str], layers: tuple[str, ...], moved: float, *, background: bool
) -> Reclassed:
    kept, fresh = tuple(n for n in new if n in old), tuple(n for n in new if n not in old)
    return Reclassed(kept, fresh, tuple(n for n in old if n not in new), background, layers, moved)


def _label(model: Labelled, names: Sequence[str]) -> None:
    model.num_labels = len(names)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: place for place, name in enumerate(names)}


def _background(parts: Sequence[Part], old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether row 0 stands for none of the names."""
    if not new:
        raise SurgeryError("a head needs at least one class, but none is named")
    rows, detects = parts[0].classes, parts[0].background
    if detects and rows == len(old) + 1:
        return True
    if rows != len(old):
        also = ", and one row more for the background" if detects else ""
        raise SurgeryError(
            f"the head {parts[0].name!r} has {rows} outputs, but {len(old)} classes are named, from {old[:1]} on; name "
            f"all of them in the order of the outputs{also}"
        )
    if detects and parts[0].prior is None and new[0] != old[0]:  # sigmoids have no background
        raise SurgeryError(
            f"row 0 of a detector is the background and stays, but it was {old[0]!r} and would be {new[0]!r}; begin "
            "both lists with the same name, or leave it out of both"
        )
    return False


def _layer(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    layer = named(model, name, nn.Linear, nn.Conv2d) if name else model
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
        raise SurgeryError(f"{name!r}, a {type(layer).__name__}, has no rows that could be rearranged")
    return layer


def _rearrange(model: nn.Module, part: Part, origin: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Gives the layer rows for other classes; returns where each of its rows comes from, -1 for a new one."""
    layer = _layer(model, part.name)
    had = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    anchors, rest = divmod(had, part.classes * part.per_class)
    if rest:
        raise SurgeryError(
            f"{part.name!r} has {had} rows, no multiple of {part.classes} classes of {part.per_class} rows each"
        )
    within = origin[:, None] * part.per_class + torch.arange(part.per_class).where(origin[:, None] >= 0, 0)
    within = within.where(origin[:, None] >= 0, -1).flatten()
    shift = torch.arange(anchors)[:, None] * (part.classes * part.per_class)
    rows = (within + shift).where(within >= 0, -1).flatten()
    fresh = rows < 0
    width = layer.weight[0].numel()
    weight, bias = drawn(int(fresh.sum()), width, mix(*seed, had))
    if part.prior is not None:
        generator = torch.Generator().manual_seed(mix(*seed, had))
        weight = torch.randn(weight.shape, generator=generator, device="cpu") * 0.01
        bias = torch.full_like(bias, -log((1 - part.prior) / part.prior))
    for name, values in (("weight", weight.view(-1, *layer.weight.shape[1:])), ("bias", bias)):
        own = layer._parameters[name]  # noqa: SLF001 (there may be no bias)
        if own is not None:
            value = own.detach().index_select(0, rows.clamp(min=0).to(own.device))
            value[fresh.to(own.device)] = values.to(own)
            replace(layer, name, value)
    if isinstance(layer, nn.Conv2d):
        layer.out_channels = len(rows)
        return rows
    layer.out_features = len(rows)
    if isinstance(layer, PaddedLinear):
        layer.reserve(max(layer.capacity, len(rows)))
        rows = torch.cat([rows, rows.new_full((layer.capacity - len(rows),), -1)])
    return rows


def _count(model: nn.Module, classes: int) -> None:
    """Tells detectors that keep a count of their classes."""
    for module in model.modules():
        if isinstance(module, Detecting):
            head = module.classification_head
            if isinstance(head, Dense):
                head.num_classes = classes
            elif isinstance(head, Scoring):
                head.num_columns = classes


def _scores(model: nn.Module, parts: Sequence[Part], batch: Given, objective: Objective) -> list[Tensor]:
    """What each layer of scores gives for the batch, with (anchors, classes) as its last dimensions."""
    layers = {part.name: _layer(model, part.name) for part in parts if part.scores}
    with ExitStack() as stack:
        taps = [stack.enter_context(tap(layer)) for layer in layers.values()]
        ask(model, batch, objective)
    scores = []
    for (name, layer), outputs in zip(layers.items(), taps, strict=True):
        if not outputs:
            raise SurgeryError(f"{name!r} is not called when the objective is asked, so it cannot be checked")
        scores.append(
            torch.cat(
                [o.movedim(1, -1).flatten(0, -2) for o in outputs]
                if isinstance(layer, nn.Conv2d)
                else [o.flatten(0, -2) for o in outputs]
            )
        )
    return scores


def _moved(before: Sequence[Tensor], after: Sequence[Tensor], parts: Sequence[Part], origin: Tensor) -> float:
    """The largest difference of kept scores."""
    kept = (origin >= 0).nonzero().flatten()
    differences = [0.0]
    for old, new, part in zip(before, after, [part for part in parts if part.scores], strict=True):
        was = old.view(len(old), -1, part.classes)[..., origin[kept].to(old.device)]
        now = new.view(len(new), -1, len(origin))[..., kept.to(new.device)]
        if was.numel():
            differences.append(float((was.double() - now.double()).abs().max()))
    return max(differences)


def _carry_rows(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, rows: Tensor) -> None:
    """Makes `optimizer` go on with `new` in the place of `old`, of which its rows are `rows`; -1 is a new one."""
    there = rows >= 0
    others = torch.ones(len(old), dtype=torch.bool).index_fill(0, rows[there], value=False).nonzero().flatten()
    _order(optimizer, old, torch.cat([rows[there], others]))
    kept = nn.Parameter(new.detach()[: int(there.sum())])
    follow(optimizer, {"": old}, {"": kept})
    follow(optimizer, {"": kept}, {"": new})  # what it fills in behind the kept rows is for new ones
    _order(optimizer, new, (there.cumsum(0) - 1).where(there, there.sum() - 1 + (~there).cumsum(0)))


def _order(optimizer: Optimizer, weight: nn.Parameter, order: Tensor) -> None:
    """Brings the rows of a state of `weight` into another order."""
    state = optimizer.state.get(weight, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() == weight.dim() and len(value) == len(weight):
            state[name] = value.index_select(0, order.to(value.device))
