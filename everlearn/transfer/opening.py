"""Opening a base: by a name of a library, code of one's own, a file that was saved, or a module."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import Tensor, nn

from everlearn.models.classes import Classes
from everlearn.models.loading import load_weights
from everlearn.models.named import build_model, called
from everlearn.models.reading import read_metadata, read_weights
from everlearn.models.report import LoadError
from everlearn.randomness import mix, seeded
from everlearn.transfer.bases import Base, new_rows, sized
from everlearn.transfer.preprocessing import Preprocessing, TextPreprocessing, changed, from_plain

ZOOS = {
    "torchvision": "everlearn.transfer.torchvision_zoo",
    "timm": "everlearn.transfer.timm_zoo",
    "hf": "everlearn.transfer.huggingface_zoo",
}
"""Where named bases come from, and the one file that knows the library."""

_KNOWING = {"timm": "timm", "transformers": "hf"}
"""Libraries whose modules say how they were made, and what their bases are called by."""


class Zoo(Protocol):
    """What the one file for a library has."""

    def make(self, name: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None, *, default: bool) -> Base:
        """The base of that name, with the library's own weights if `default`, else with random ones."""
        ...

    def names(self) -> Collection[str]:
        """The names there are."""
        ...


class Knowing(Zoo, Protocol):
    """What it has besides where modules say how they were made."""

    def of(self, module: nn.Module) -> Base:
        """The base of a module that the library made."""
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
    alone = text
    text, path, notes = _asked(text, weights)
    with seeded(mix(seed)):
        base = _made(text, notes.get("notes"), default=weights == "default")
    if alone is not text:  # a saved base is what it was, also where nothing was known of it
        base.head, base.preprocessing = None, None
    if head_name is not None or notes.get("head"):
        base.head = _checked(base, head_name or notes["head"])
    base.preprocessing = notes.get("preprocessing") or base.preprocessing
    if path is not None:
        _load(base, path, notes.get("classes"), head=head, coverage=coverage, adapt=adapt)
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
        if library in _KNOWING:
            return cast("Knowing", _zoo(_KNOWING[library])).of(text)
        return Base(text, type(text).__name__, head=_last_linear(text))
    where, colon, rest = text.partition(":")
    if _named(text):
        name, bracket, settings = rest.partition("(")
        made, given = "", dict[str, Any]()
        with suppress(ValueError):
            made, given = called("f" + bracket + settings)
        if not name or not made:
            raise ValueError(
                f"cannot read the base {text!r}; expected {where}:NAME or {where}:NAME(setting=value), "
                "with plain values"
            )
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
        told["preprocessing"] = told["preprocessing"] and from_plain(told["preprocessing"])
        told["classes"] = Classes(json.loads(notes["classes"])).names if "classes" in notes else None
    except (ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"what {path} says of its model is damaged: {error}") from None
    return told


def _load(
    base: Base,
    path: Path,
    classes: tuple[str, ...] | None,
    *,
    head: Literal["strict", "skip"],
    coverage: float,
    adapt: Collection[str],
) -> None:
    """The weights of a file for these classes into the base, whose head has as many rows as that of the file first."""
    layer = None if base.head is None else base.module.get_submodule(base.head)
    if head == "skip" and layer is not None and not isinstance(layer, nn.Linear):
        raise ValueError(f"the head {base.head!r} is no nn.Linear, so it cannot be skipped; load it, then replace it")
    linear = base.head if isinstance(layer, nn.Linear) else None
    options: dict[str, Any] = {"coverage": coverage, "head": head, "head_name": linear, "adapt": adapt}
    known = classes if head == "strict" else None
    if head == "skip" or not isinstance(layer, nn.Linear | nn.Conv2d):
        base.report = load_weights(base.module, path, **options)
    else:
        before = dict(layer.named_parameters())
        outputs = _outputs_in(path, base.head or "", before["weight"])
        try:
            for part, fresh in new_rows(layer, outputs, 0).items() if outputs != len(before["weight"]) else ():
                if part in before:
                    setattr(layer, part, nn.Parameter(fresh.to(before[part]), before[part].requires_grad))
            base.report = load_weights(base.module, path, **options)
        except LoadError:
            for part, old in before.items():  # a refused file leaves the module as it was
                setattr(layer, part, old)
            raise
        sized(base, layer, outputs, known)
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
