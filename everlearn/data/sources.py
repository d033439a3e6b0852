"""Rows from a path: which kinds of data there are, and which one stands there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from everlearn.batch import UNLABELED
from everlearn.data.arrays import load_arrays, load_mapped
from everlearn.data.hub import load_hub
from everlearn.data.images import load_images
from everlearn.data.items import Size
from everlearn.data.rows import With
from everlearn.data.source import Source, Task
from everlearn.data.tables import load_table

_TABLE = (load_table, "a table", ("target", "features", "task"))
_FILES: dict[str, tuple[Callable[..., Source], str, tuple[str, ...]]] = {
    ".npz": (load_arrays, "an archive of arrays", ("split", "task")),
    **dict.fromkeys((".csv", ".tsv", ".jsonl", ".ndjson"), _TABLE),
    **dict.fromkeys((".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz", ".parquet"), _TABLE),
}
_HUB = (load_hub, "a Hugging Face data set", ("target", "features", "task", "split", "size", "channels"))
_MAPPED = (load_mapped, "a folder of arrays", ("task",))
_IMAGES = (load_images, "a folder of images", ("size", "channels", "in_memory"))
_DEFAULTS = {"task": "classification", "channels": 3}


def load(
    path: str | Path,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    task: Task = "classification",
    split: str | None = None,
    size: Size | None = None,
    channels: int = 3,
    in_memory: bool | None = None,
) -> Source:
    """The data at `path`: class folders of images, a table, an archive of arrays, or a saved data set.

    Tables (.csv, .tsv, .jsonl, .ndjson, also as .gz, and .parquet) take `target`, `features` and `task`: see
    `load_table`. Archives (.npz) take `split` and `task`: see `load_arrays`. Folders with x.npy and y.npy, which may be
    larger than memory, take `task`: see `load_mapped`. Folders of images take `size`,
    `channels` and `in_memory`: see `load_images`. Folders written by the `save_to_disk` of Hugging Face's
    datasets take all but the last: see `load_hub`. An option that the data at `path` has no use for is a
    ValueError, as is data that is empty, broken, or not finite.
    """
    if task not in get_args(Task):
        raise ValueError(f"the task must be one of {list(get_args(Task))}, not {task!r}")
    path = Path(path)
    read, kind, takes = _reader(path)
    options: dict[str, Any] = {
        "target": target,
        "features": features,
        "task": task,
        "split": split,
        "size": size,
        "channels": channels,
        "in_memory": in_memory,
    }
    for name, value in options.items():
        if name not in takes and value != _DEFAULTS.get(name):
            raise ValueError(f"{path} is {kind}, which takes {list(takes)}, and no {name}={value!r}")
    return read(path, **{name: options[name] for name in takes})


def is_images(path: str | Path) -> bool:
    """Whether what stands at `path` is a folder of images."""
    return Path(path).is_dir() and _reader(Path(path)) is _IMAGES


def load_unlabelled(path: str | Path, **options: Any) -> Source:
    """The data at `path` as rows without labels: y is `UNLABELED` in each, and there are no names of classes.

    A folder of images may have them in any folders, or in none, and a table may have a column of answers or none.
    Data of other kinds is loaded as by `load`, and its answers are not looked at.
    """
    path = Path(path)
    if is_images(path):
        return load_images(path, labels=False, **{name: value for name, value in options.items() if name in _IMAGES[2]})
    if path.is_file() and _reader(path) is _TABLE:
        taken = {name: value for name, value in options.items() if name in ("target", "features")}
        return load_table(path, labels=False, **taken)
    source = load(path, **options)
    return replace(source, rows=With(source.rows, y=UNLABELED), names=())


def _reader(path: Path) -> tuple[Callable[..., Source], str, tuple[str, ...]]:
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}")
    if path.is_dir():
        saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
        mapped = (path / "x.npy").is_file() and (path / "y.npy").is_file()
        return _HUB if saved else _MAPPED if mapped else _IMAGES
    for suffix, reader in _FILES.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise ValueError(
        f"{path} is of no known kind; it must be a folder of images, one folder a class, or a file of {sorted(_FILES)}"
    )
