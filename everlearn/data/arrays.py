"""Rows from arrays: an archive (.npz), or a folder of files (.npy) that may be larger than memory."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlearn.data.hashing import row_ids
from everlearn.data.rows import Columns
from everlearn.data.source import Source, Task, classify, fingerprint

Array = np.ndarray[Any, Any]
PAIRS = (("x", "y"), ("data", "labels"))


def load_arrays(path: Path, *, split: str | None = None, task: Task = "classification") -> Source:
    """The arrays x and y (or data and labels) of an .npz file, or x_SPLIT and y_SPLIT of the named split.

    uint8 arrays of (n, h, w) are grey images, and become (n, 1, h, w); of (n, h, w, 1 or 3), they become
    channels first. Floats become float32 and must be finite, whole numbers int64. If there are `class_names`,
    y counts in them. Nothing is unpickled: arrays of objects are a ValueError.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz file: it is no archive, or cut short")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = _pair(path, archive.files, split)
            x, y = (_array(path, archive, name) for name in names)
            words = _array(path, archive, "class_names") if "class_names" in archive.files else None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{path} has no rows: {names[0]} has shape {x.shape}")
    if y.shape not in {(len(x),), (len(x), 1)}:
        raise ValueError(f"{path}: {names[1]} must have shape ({len(x)},), one answer a row, but has {y.shape}")
    answers = y.reshape(-1)
    classes: tuple[str, ...] = ()
    if task == "regression":
        labels = _numbers(path, names[1], answers).to(torch.float32)
    else:
        classes, labels = classify(_words(path, answers, words), f"{path}: {names[1]}")
    ids = row_ids(path.name if split is None else f"{path.name}/{split}", len(x))
    rows = Columns(x=_numbers(path, names[0], _channels_first(x)), y=labels, id=ids)
    return Source(rows, classes, fingerprint=fingerprint(rows, [path], classes, x.shape))


def load_mapped(path: Path, *, task: Task = "classification") -> Source:
    """The arrays x.npy and y.npy in a folder: x is mapped into memory and read batch by batch, so it may be larger.

    x is uint8 or float32; images are shaped as `load_arrays` takes them. class_names.npy names the classes, as there.
    Since x is not read here, values that are not finite are found when their batch is learned.
    """
    x, y = (_mapped(path / f"{name}.npy") for name in ("x", "y"))
    if x.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"{path / 'x.npy'} must be uint8 or float32 to be read in place, but it is {x.dtype}; convert it"
        )
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{path} has no rows: x has shape {x.shape}")
    if y.shape not in {(len(x),), (len(x), 1)}:
        raise ValueError(f"{path}: y must have shape ({len(x)},), one answer a row, but has {y.shape}")
    answers = np.asarray(y).reshape(-1)
    classes: tuple[str, ...] = ()
    if task == "regression":
        labels = _numbers(path, "y", answers).to(torch.float32)
    else:
        words = _mapped(path / "class_names.npy") if (path / "class_names.npy").is_file() else None
        classes, labels = classify(_words(path, answers, words), f"{path}: y")
    rows = Columns(x=_channels_first(x), y=labels, id=row_ids(path.name, len(x)))
    return Source(rows, classes, fingerprint=fingerprint(rows, [path / "x.npy", path / "y.npy"], classes, x.shape))


def _mapped(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array that can be read in place: {error}") from error
    return array


def _pair(path: Path, found: list[str], split: str | None) -> tuple[str, str]:
    splits = [name[2:] for name in found if name.startswith("x_") and f"y_{name[2:]}" in found]
    whole = [pair for pair in PAIRS if set(pair) <= set(found)]
    if split is not None:
        if split not in splits:
            raise ValueError(f"{path} has no split {split!r}: it has {splits or 'none'}, among the arrays {found}")
        return f"x_{split}", f"y_{split}"
    if len(whole) == 1:
        return whole[0]
    if splits:
        raise ValueError(f"{path} has the splits {splits}; say which, as in split={splits[0]!r}")
    raise ValueError(
        f"{path} must have the arrays x and y, or data and labels, or x_train and y_train, but it has {found}"
    )


def _array(path: Path, archive: Any, name: str) -> Array:
    try:
        array: Array = archive[name]
    except ValueError as error:
        raise ValueError(
            f"{path}: the array {name} cannot be read ({error}); arrays of Python objects are pickles, which "
            "can run code: save numbers or texts"
        ) from error
    return array


def _words(path: Path, answers: Array, words: Array | None) -> list[Any]:
    if words is None:
        return list(answers.tolist())
    if answers.dtype.kind not in "iu" or answers.min() < 0 or answers.max() >= len(words):
        raise ValueError(f"{path}: the answers must be positions in the {len(words)} class_names")
    return list(words[answers].tolist())


def _channels_first(x: Array) -> Array:
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[:, None]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in {1, 3} and x.shape[1] not in {1, 3}:
        return x.transpose(0, 3, 1, 2)
    return x


def _numbers(path: Path, name: str, array: Array) -> Tensor:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            row, *column = np.argwhere(~np.isfinite(array))[0].tolist()
            place = f"row {row + 1}" + (f", position {column}" if column else "")
            raise ValueError(f"{path}: {name} is not finite in {place}; fill it in, or leave the row out")
    elif array.dtype.kind in "iub":
        array = array if array.dtype == np.uint8 else array.astype(np.int64)
    else:
        raise ValueError(f"{path}: {name} must hold numbers, but it holds {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array))
