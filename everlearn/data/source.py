"""What was loaded: rows, the names of their classes, and what tells them from other data."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import Rows

Task = Literal["classification", "regression"]
_Label = str | bool | int | float
_LABELS = (str, bool, int, float)


@dataclass(frozen=True)
class Source:
    """Rows from a file or a folder.

    The rows have an int64 "id" for each row, which stays the same when rows or files are added, and an answer
    "y": for classification an int64 position in `names`, the names of the classes in natural order; for
    regression a float32, and `names` is empty. `features` are the columns of a table that became the vector
    x, in its order. `quarantined` are the files that could not be read and were left out. `fingerprint` is
    equal for equal data: a run that is resumed with other data can notice it.
    """

    rows: Rows
    names: tuple[str, ...]
    features: tuple[str, ...] = ()
    quarantined: tuple[Path, ...] = ()
    fingerprint: str = ""


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order in which a person counts.

    >>> natural(["10", "2", "b", "-1", "a10", "a9"])
    ('-1', '2', '10', 'a9', 'a10', 'b')
    """

    def key(name: str) -> tuple[object, ...]:
        if re.fullmatch(r"-?\d+", name):
            return (0, int(name), name)
        parts = re.split(r"(\d+)", name)
        return (1, [int(part) if part.isdecimal() else part for part in parts], name)

    return tuple(sorted(names, key=key))


def classify(labels: Sequence[Any], where: str) -> tuple[tuple[str, ...], Tensor]:
    """The names of the classes, in natural order, and the labels as int64 positions among them, (n,).

    Labels are texts, truth values or whole numbers; where all are numbers, 1.0 is the class "1". `where` says
    in errors where the labels stand. Raises a ValueError for a missing label, a fraction, or any other kind.

    >>> classify(["cat", "ant", "cat"], "the column 'label'")
    (('ant', 'cat'), tensor([1, 0, 1]))
    """
    strange = next((row for row, label in enumerate(labels) if not isinstance(label, _LABELS)), None)
    if strange is not None:
        raise ValueError(
            f"{where} must hold texts or whole numbers, but row {strange + 1} holds {labels[strange]!r}; "
            "give each row a label, or leave it out"
        )
    distinct = list(dict.fromkeys(labels))
    if "" in distinct:
        raise ValueError(f"{where} is empty in row {labels.index('') + 1}; give the row a label, or leave it out")
    names = _names(distinct)
    for label, name in names.items():
        if name is None:
            raise ValueError(
                f"{where} holds {label!r} in row {labels.index(label) + 1}, which names no class; "
                "for numbers to be predicted give task='regression'"
            )
    ordered = natural({name for name in names.values() if name is not None})
    position = {name: number for number, name in enumerate(ordered)}
    code = {label: position[name] for label, name in names.items() if name is not None}
    return ordered, torch.from_numpy(np.fromiter(map(code.__getitem__, labels), np.int64, len(labels)))


def fingerprint(rows: Rows, files: Iterable[Path], *about: object) -> str:
    """A short hash of the rows' ids and answers, the sizes of their files, and of what else JSON can tell."""
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.sha256(json.dumps([len(rows), sizes, about]).encode())
    for name in ("id", "y"):
        column = rows.column(name)
        if isinstance(column, Tensor):
            digest.update(column.numpy().tobytes())
    return digest.hexdigest()[:16]


def _names(labels: Iterable[_Label]) -> dict[_Label, str | None]:
    """The class that each label names; None for a fraction among labels that are all numbers."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return {label: str(label) for label in labels}
    return {
        label: str(label)
        if isinstance(label, bool) or re.fullmatch(r"-?\d+", str(label))
        else (str(int(value)) if value.is_integer() else None)
        for label, value in values.items()
    }
