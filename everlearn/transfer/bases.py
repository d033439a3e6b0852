"""A base: the pretrained model that learning begins with, and what must be known to use it rightly."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, Rows, join
from everlearn.data.order import batches
from everlearn.data.rows import Columns
from everlearn.data.transforms import View
from everlearn.models.body import look
from everlearn.models.classes import Classes
from everlearn.models.heads import drawn, own_parameters
from everlearn.models.loading import load_weights
from everlearn.models.named import build_model, called
from everlearn.models.reading import read_metadata, read_weights
from everlearn.models.report import LoadError, Report
from everlearn.models.saving import save_weights
from everlearn.objective import Objective, Viewed, classify
from everlearn.randomness import mix, seeded
from everlearn.transfer.preprocessing import (
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    changed,
    from_plain,
    to_plain,
)

Kind = Literal["image", "text", "detection", "other"]

ZOOS = {
    "torchvision": "everlearn.transfer.torchvision_zoo",
    "timm": "everlearn.transfer.timm_zoo",
    "hf": "everlearn.transfer.huggingface_zoo",
}
"""Where named bases come from, and the one file that knows the library."""


@dataclass
class Base:
    """A model to begin with, and what its makers said of it: None is what is not known.

    `source` is the text that names it. `head` is the layer that gives an output for each class, `classes` their names
    in this order. `weights` says where the weights came from, None that they are random; `licence` is that of the
    weights. `report` tells what was loaded. `objective` asks this kind of model, and learns from a column "y".
    `notes` is what else its library needs to make it again from a file.
    """

    module: nn.Module
    source: str
    kind: Kind = "other"
    preprocessing: Preprocessing | None = None
    head: str | None = None
    classes: tuple[str, ...] | None = None
    weights: str | None = None
    licence: str | None = None
    report: Report | None = None
    objective: Objective = classify
    notes: dict[str, Any] | None = None

    @property
    def input_size(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of an image as the model sees it; None where it is not known or not fixed."""
        told = self.preprocessing
        return (told.channels, *told.size) if isinstance(told, ImagePreprocessing) and told.size else None

    def view(self, augment: Iterable[str] = (), column: str | None = None) -> View:
        """What the model sees of raw rows (images in "x", or texts in "text"): for `Learner(view=base.view())`."""
        if self.preprocessing is None:
            raise ValueError(
                f"how {self.source} is to see its input is not known; open it with preprocessing=, such as "
                'ImagePreprocessing(resize=256, crop=(224, 224), mean=..., std=...), or {"mean": ..., "std": ...}'
            )
        return self.preprocessing.view(augment) if column is None else self.preprocessing.view(augment, column)

    def features(self, rows: Rows, *, batch_size: int = 64) -> Columns:
        """Rows whose "x" is what goes into the head (float32, in RAM); other columns stay, but for texts.

        Raw rows come in, and are seen in this model's own size. The mean over places stands for the places that a
        head of convolutions sees. A base without preprocessing sees the rows as they are.
        """
        head = self._head_name()
        seen = self.objective if self.preprocessing is None else Viewed(self.objective, self.view())
        parts = []
        for batch in batches(rows, torch.arange(len(rows)), batch_size):
            _, x = look(self.module, batch, seen, head)
            parts.append(
                {name: column for name, column in batch.items() if name != "text"}
                | {"x": self._pooled(x).float().cpu()}
            )
        if not parts:
            raise ValueError("there are no rows to make features of")
        return Columns(join(*parts))

    def logits(self, batch: Batch) -> Tensor:
        """What the model answers for raw rows: in eval mode, without gradients, and the model stays as it is."""
        seen = self.objective if self.preprocessing is None else Viewed(self.objective, self.view())
        return look(self.module, batch, seen, self._head_name())[0].logits

    def replace_head(self, classes: Iterable[str], *, seed: int = 0) -> tuple[str, ...]:
        """Gives the head one output for each of `classes`, in this order, and says which of them it knew already.

        The rows of classes that are known by name go to their new places, bit for bit; the others are drawn as those
        of a new layer, from `seed` and the name's place alone. The layer is the same object with new Parameters: make
        the optimizer afterwards.
        """
        names = Classes(classes).names
        if not names:
            raise ValueError("a head must have at least one class")
        head = self._head_name()
        layer = self._layer(head)
        known = {name: row for row, name in enumerate(self.classes or ())}
        kept = tuple(name for name in names if name in known)
        parts = own_parameters(self.module, head) if isinstance(layer, nn.Linear) else dict(layer.named_parameters())
        fresh = _drawn(layer, len(names), seed)
        places = torch.tensor([row for row, name in enumerate(names) if name in known], dtype=torch.int64)
        rows = torch.tensor([known[name] for name in kept], dtype=torch.int64)
        for part, old in parts.items():
            new = fresh[part].to(old)
            new[places.to(old.device)] = old.detach()[rows.to(old.device)]
            setattr(layer, part, nn.Parameter(new, requires_grad=old.requires_grad))
        self._sized(layer, len(names), names)
        self.classes = names
        return kept

    def save(self, path: str | os.PathLike[str]) -> None:
        """One .safetensors file with the weights, classes, preprocessing and all else: `open_base(path)` opens it."""
        plain = None if self.preprocessing is None else to_plain(self.preprocessing)
        told = {
            "source": self.source,
            "preprocessing": plain,
            "head": self.head,
            "licence": self.licence,
            "notes": self.notes,
        }
        save_weights(self.module, path, self.classes, {"everlearn.base": json.dumps(told)})

    def _head_name(self) -> str:
        if self.head is None:
            raise ValueError(
                f"{self.source} has no one layer that gives an output for each class; "
                + (
                    "the heads of detectors are replaced by everlearn.transfer.surgery"
                    if self.kind == "detection"
                    else "open it with head_name= if one of its layers is that"
                )
            )
        return self.head

    def _layer(self, head: str) -> nn.Linear | nn.Conv2d:
        layer = self.module.get_submodule(head)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ValueError(  # noqa: TRY004 (what is wrong is the name)
                f"the head {head!r} of {self.source} is a {type(layer).__name__}; its rows can be replaced in an "
                "nn.Linear or nn.Conv2d only: name the layer with head_name="
            )
        return layer

    def _sized(self, layer: nn.Linear | nn.Conv2d, outputs: int, names: tuple[str, ...] | None) -> None:
        """Tells the layer, and the model around it, how many outputs there are now."""
        if isinstance(layer, nn.Linear):
            layer.out_features = outputs
        else:
            layer.out_channels = outputs
        if self.source.partition(":")[0] == "hf":
            _zoo("hf").rename(self.module, outputs, names)
        elif isinstance(vars(self.module).get("num_classes"), int):
            self.module.num_classes = cast("Any", outputs)

    def _pooled(self, x: Tensor) -> Tensor:
        """The mean over the places at which a head of convolutions is applied."""
        layer = self.module.get_submodule(self._head_name())
        if isinstance(layer, nn.Conv2d):
            return x.reshape(len(x), layer.in_channels, -1).mean(2)
        if isinstance(layer, nn.Linear) and x.shape[1] != layer.in_features:
            raise ValueError(
                f"the head {self.head!r} of {self.source} answers for each of {x.shape[1] // layer.in_features} "
                "places of a row, so its input is no row of features; name another layer with head_name="
            )
        return x


class Zoo(Protocol):
    """What the one file for a library has."""

    def make(self, name: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None, *, default: bool) -> Base:
        """The base of that name, with the library's own weights if `default`, else with random ones."""
        ...

    def names(self) -> Collection[str]:
        """The names there are."""
        ...

    def of(self, module: nn.Module) -> Base:
        """The base of a module that the library made."""
        ...

    def rename(self, module: nn.Module, outputs: int, names: tuple[str, ...] | None) -> None:
        """Tells the module how many outputs it has, and their names."""
        ...


def open_base(
    text: str | nn.Module,
    weights: str | os.PathLike[str] | None = None,
    *,
    classes: Iterable[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    head: Literal["strict", "skip"] = "strict",
    head_name: str | None = None,
    coverage: float = 0.9,
    adapt: Collection[str] = ("positions", "channels"),
    seed: int = 0,
) -> Base:
    """The base that `text` names, with its weights, its preprocessing and, if `classes` are given, a head for them.

    `text` is `torchvision:NAME`, `timm:NAME`, `hf:NAME` (a folder, a name of the Hugging Face hub, or a type of model
    such as "vit"), `FILE.py:NAME`, a file that `Base.save` wrote, or a module. Settings may follow in brackets:
    `timm:vit_tiny_patch16_224(img_size=96)`.

    `weights` are None (random, drawn from `seed`; but a folder of Hugging Face and a saved file hold their own),
    "default" (those that the library downloads), or a file for `load_weights`, to which `head`, `coverage` and
    `adapt` go. The head becomes as large as that of the file first. What is known of the model's input comes from its
    own config, or from the file; `preprocessing` replaces it, or some of its fields.
    """
    text, path, notes = _asked(text, weights)
    with seeded(mix(seed)):
        base = _made(text, notes.get("notes"), default=weights == "default")
    if head_name is not None or notes.get("head"):
        base.head = _checked(base, head_name or notes["head"])
    if notes.get("preprocessing"):
        base.preprocessing = from_plain(notes["preprocessing"])
    if path is not None:
        _load(base, path, head=head, coverage=coverage, adapt=adapt)
        base.weights, base.licence = str(path), notes.get("licence")
    base.preprocessing = changed(base.preprocessing, preprocessing)
    if base.preprocessing is not None and base.kind in {"image", "text"}:
        _checked_kind(base, base.preprocessing)
    if classes is not None:
        base.replace_head(classes, seed=seed)
    return base


def _asked(
    text: str | nn.Module, weights: str | os.PathLike[str] | None
) -> tuple[str | nn.Module, Path | None, dict[str, Any]]:
    """Which model, the file of its weights, and what that file says of the model."""
    if isinstance(text, nn.Module) or _named(text) or not text.endswith(".safetensors"):
        path = None if weights is None or weights == "default" else Path(weights)
        return text, path, {} if path is None else _told(path)
    if weights is not None:
        raise ValueError(f"{text} holds its own weights; leave weights= out, or name the model of {weights}")
    notes = _told(text)
    source = notes.get("source")
    if source is None:
        raise LoadError(f'{text} does not say what its weights are of; open_base("torchvision:NAME", {text!r})')
    if not _named(str(source)):  # a file of weights must not choose which code runs
        raise LoadError(
            f"the model of {text} is made by code, {source!r}; name it, as in open_base('net.py:Net', {text!r}), or "
            f"--base net.py:Net --weights {text}"
        )
    if str(source).startswith("hf:") and not isinstance(notes.get("notes"), dict):
        raise LoadError(
            f"{text} says that it is of {source}, but not with which config; it was not written by Base.save"
        )
    return str(source), Path(text), notes


def _checked_kind(base: Base, preprocessing: Preprocessing) -> None:
    if isinstance(preprocessing, TextPreprocessing) != (base.kind == "text"):
        raise ValueError(f"{base.source} is of the kind {base.kind!r}, but the preprocessing is {preprocessing}")


def _named(text: str) -> bool:
    return text.partition(":")[0] in ZOOS


def _zoo(name: str) -> Zoo:
    return cast("Zoo", import_module(ZOOS[name]))


def _made(text: str | nn.Module, notes: Mapping[str, Any] | None, *, default: bool) -> Base:
    """The base before weights are loaded from a file."""
    if isinstance(text, nn.Module):
        if default:
            raise ValueError('a module has no default weights; weights="default" goes with torchvision:, timm:, hf:')
        library = type(text).__module__.partition(".")[0]
        if library in {"timm", "transformers"}:
            return _zoo({"timm": "timm", "transformers": "hf"}[library]).of(text)
        return Base(text, type(text).__name__, head=_last_linear(text))
    where, colon, rest = text.partition(":")
    if _named(text):
        name, bracket, settings = rest.partition("(")
        made, given = called("f" + bracket + settings)
        if not name or not made:
            raise ValueError(f"cannot read the base {text!r}; expected {where}:NAME or {where}:NAME(setting=value)")
        return _zoo(where).make(name, given, notes, default=default)
    if not colon or where in get_close_matches(where, ZOOS, n=1) or ("/" not in text and "." not in where):
        near = get_close_matches(where, ZOOS, n=1)
        hint = f"did you mean {near[0]}:{rest or 'NAME'}? " if colon and near else ""
        raise ValueError(
            f"cannot read the base {text!r}; {hint}expected torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME, or a "
            ".safetensors file that Base.save wrote"
        )
    if default:
        raise ValueError(f'{text} has no default weights; weights="default" goes with torchvision:, timm:, hf:')
    module = build_model(text, "the base")
    return Base(module, text, head=_last_linear(module))


def _last_linear(module: nn.Module) -> str | None:
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return names[-1] if names else None


def _checked(base: Base, name: str) -> str:
    layers = [each for each, _ in base.module.named_modules()]
    if name not in layers:
        near = ", ".join(map(repr, get_close_matches(name, layers, n=3, cutoff=0.0)))
        raise ValueError(f"{base.source} has no layer {name!r}; the nearest are {near}")
    return name


def _told(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `Base.save` wrote beside the weights, and the classes; empty for other files."""
    notes = read_metadata(path)
    if "classes" not in notes and "everlearn.base" not in notes:
        return {}
    told: dict[str, Any] = {"source": None, "preprocessing": None, "head": None, "licence": None, "notes": None}
    try:
        told |= json.loads(notes.get("everlearn.base", "{}"))
        told["classes"] = Classes(json.loads(notes["classes"])).names if "classes" in notes else None
    except (ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"what {path} says of its model is damaged: {error}") from None
    return told


def _load(base: Base, path: Path, *, head: Literal["strict", "skip"], coverage: float, adapt: Collection[str]) -> None:
    """The weights of a file into the base, whose head has as many rows as that of the file first."""
    layer = None if base.head is None else base.module.get_submodule(base.head)
    if head == "skip" and layer is not None and not isinstance(layer, nn.Linear):
        raise ValueError(f"the head {base.head!r} is no nn.Linear, so it cannot be skipped; load it, then replace it")
    linear = base.head if isinstance(layer, nn.Linear) else None
    options: dict[str, Any] = {"coverage": coverage, "head": head, "head_name": linear, "adapt": adapt}
    names = read_metadata(path).get("classes") if head == "strict" else None
    known = Classes(json.loads(names)).names if names else None
    if head == "skip" or not isinstance(layer, nn.Linear | nn.Conv2d):
        base.report = load_weights(base.module, path, **options)
    else:
        before = dict(layer.named_parameters())
        outputs = _outputs_in(path, base.head or "", before["weight"])
        try:
            for part, fresh in _drawn(layer, outputs, 0).items() if outputs != len(before["weight"]) else ():
                if part in before:
                    setattr(layer, part, nn.Parameter(fresh.to(before[part]), before[part].requires_grad))
            base.report = load_weights(base.module, path, **options)
        except LoadError:
            for part, old in before.items():  # a refused file leaves the module as it was
                setattr(layer, part, old)
            raise
        base._sized(layer, outputs, known)  # noqa: SLF001 (it is ours)
    base.classes = known


def _outputs_in(path: Path, head: str, own: Tensor) -> int:
    """How many rows the head has in the file; as many as our own where that is not clear."""
    ending = f".{head}.weight" if head else ".weight"
    sizes = {
        len(value)
        for name, value in read_weights(path).items()
        if f".{name}".endswith(ending) and value.shape[1:] == own.shape[1:]
    }
    return sizes.pop() if len(sizes) == 1 else len(own)


def _drawn(layer: nn.Linear | nn.Conv2d, outputs: int, seed: int) -> dict[str, Tensor]:
    """The weight and the bias of a new layer with so many outputs, in the shape of `layer`."""
    weight, bias = drawn(outputs, prod(layer.weight.shape[1:]), mix(seed, outputs))
    return {"weight": weight.reshape(outputs, *layer.weight.shape[1:]), "bias": bias}
