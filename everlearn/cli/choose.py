"""Which base to begin with: bases by name, rows from a path, and what comes out in a terminal and a file."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlearn.batch import Rows
from everlearn.checkpoint import write
from everlearn.cli.show import console, say
from everlearn.data import is_images, load
from everlearn.data.source import Source
from everlearn.spec import one_of
from everlearn.transfer.bases import Base
from everlearn.transfer.choice import Choice
from everlearn.transfer.choosing import choose
from everlearn.transfer.opening import open_base
from everlearn.transfer.preprocessing import changed
from everlearn.transfer.scores import CAUTION
from everlearn.workspace.model import moments

SUFFIXES = (".html", ".json", ".svg")
_LIBRARIES = ("torchvision", "timm", "hf")
"""Whose bases have weights of their own."""


def compared(
    data: Path,
    bases: str,
    weights: Sequence[str],
    *,
    normalize: Sequence[str],
    scores: str,
    most: int,
    out: Path | None,
    out_of_distribution: bool,
    size: int,
    device: str,
    seed: int,
) -> None:
    """Opens the bases, ranks them by the rows, shows what came out, and writes it to `out`."""
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out} must end in one of {', '.join(SUFFIXES)}, which says what is written")
    named = _named(bases)
    files, seen = _by_base(named, "weights", weights, "model.pth"), _by_base(named, "normalize", normalize, "imagenet")
    opened = {name: _opened(name, files.get(name), seen.get(name), device) for name in named}
    sources: dict[tuple[Any, ...], Source] = {}

    def rows(base: Base) -> Rows:
        return _loaded(data, base, size, sources).rows

    names = _loaded(data, next(iter(opened.values())), size, sources).names
    with console.status("looking at the rows") as status:
        choice = choose(
            rows,
            opened,
            scores=[score.strip() for score in scores.split(",") if score.strip()],
            most=most,
            seed=seed,
            out_of_distribution=out_of_distribution,
            names=names,
            said=lambda name: status.update(f"features and costs of {name}"),
        )
    for path in next(iter(sources.values())).quarantined:
        say(f"left out, because it does not decode: {path}")
    console.print(choice.table())
    looked = f"On {choice.rows:,} of {choice.of:,} rows of {choice.classes:,} classes; {choice.machine}."
    for line in (looked, CAUTION):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    console.print(choice.summary(), markup=False, soft_wrap=True)
    best = choice.best.name
    told = opened[best].preprocessing
    read = str(size) if size and (told is None or told.load_size is None) else None  # else it has a size of its own
    own = (("--weights", files.get(best)), ("--normalize", seen.get(best)), ("--size", read))
    given = ["--base", best, *(word for flag, said in own if said for word in (flag, said)), "--data", str(data)]
    words = ["everlearn", "transfer", *given, "--strategy", choice.proposal.name, "--out", "tuned"]
    console.print(f"Next: {shlex.join(words)}", markup=False, soft_wrap=True)
    if out is not None:
        write(out, _content(choice, out.suffix.lower()).encode())
        console.print(f"written to {out}", markup=False, soft_wrap=True)


def _content(choice: Choice, suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(choice.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return choice.to_svg() if suffix == ".svg" else choice.to_html()


def _named(bases: str) -> list[str]:
    """The bases that are named, joined by commas.

    >>> _named("net.py:Net(outputs=3,width=4),timm:resnet18")
    ['net.py:Net(outputs=3,width=4)', 'timm:resnet18']
    """
    named = [part.strip() for part in re.split(r",(?![^(]*\))", bases)]  # a comma in brackets is part of a base
    if not all(named):
        raise ValueError(f"cannot read --bases {bases!r}; expected names joined by commas, as in timm:a,timm:b")
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise ValueError(f"--bases names {twice!r} twice; name each base once")
    return named


def _by_base(named: Sequence[str], option: str, given: Sequence[str], example: str) -> dict[str, str]:
    """What an option says of some bases, as BASE=VALUE.

    >>> _by_base(["net.py:Net(width=4)", "timm:resnet18"], "weights", ["net.py:Net(width=4)=a.pth"], "model.pth")
    {'net.py:Net(width=4)': 'a.pth'}
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            kind = "FILE" if option == "weights" else "VALUE"
            raise ValueError(f"cannot read --{option} {text!r}; expected BASE={kind}, as in {named[0]}={example}")
        found[one_of("base", name, named)] = value
    return found


def _opened(name: str, file: str | None, normalize: str | None, device: str) -> Base:
    """The base with its weights; a ValueError if it has none."""
    default = "default" if name.partition(":")[0] in _LIBRARIES else None
    try:
        base = open_base(name, file or default)
    except ImportError as error:  # an optional dependency, with the way to install it
        raise ValueError(str(error)) from error
    if base.weights is None:
        raise ValueError(
            f"the base {name} has no weights, so its features would be those of chance; give a file: --weights "
            f"{name}=FILE"
        )
    if normalize is not None:
        base.preprocessing = changed(base.preprocessing, moments(normalize))
    try:
        base.module.to(device)
    except (RuntimeError, AssertionError) as error:  # torch knows no such device, or was built without it
        unknown = "device type at start" in str(error)
        reason = "torch knows none of that name" if unknown else str(error).partition("\n")[0]
        raise ValueError(f"cannot use --device {device} ({reason}); expected cpu, cuda, cuda:1 or mps") from error
    return base


def _loaded(data: Path, base: Base, size: int, sources: dict[tuple[Any, ...], Source]) -> Source:
    """The data as the base takes it: images at its own size, or all at `size` if there is one; texts by name."""
    options: dict[str, Any] = {}
    if base.kind == "text":
        options = {"features": ("text",)}
    if is_images(data):
        own = None if base.preprocessing is None else base.preprocessing.load_size
        if own is None and base.input_size is not None:
            own = base.input_size[1:]
        options = {"size": size or own, "channels": 3 if base.input_size is None else base.input_size[0]}
    key = tuple(options.values())
    if key not in sources:
        sources[key] = load(data, **options)
    return sources[key]
