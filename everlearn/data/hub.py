"""Rows from data sets of Hugging Face: those at hand, and those saved to disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.batch import Batch, Column, pick
from everlearn.data.hashing import row_ids
from everlearn.data.items import Size, pixels, stack, two_sides, within
from everlearn.data.source import Source, Task, classify, fingerprint
from everlearn.data.tables import CHUNK, Cells, Chunk, arrow_cells, table_source, target_of


class Records:
    """The rows of a `datasets.Dataset`, read from its files as they are taken.

    Columns keep their names, but "label" is "y", and an image is "x" if there is only one, as uint8
    (channels, height, width), resized to `size` if given. Columns in `beside`, tensors with a row for each
    row of the data set, take the place of those of their name.
    """

    resident = False

    def __init__(
        self,
        dataset: Any,
        *,
        beside: Mapping[str, Tensor] | None = None,
        size: Size | None = None,
        channels: int | None = None,
    ) -> None:
        images = image_columns(dataset)
        self.beside = dict(beside or {})
        self.size = two_sides(size)
        self.channels = channels
        renamed = {"label": "y"} | ({images[0]: "x"} if len(images) == 1 else {})
        kept = [name for name in dataset.column_names if renamed.get(name, name) not in self.beside]
        self._columns = {renamed.get(name, name): name for name in kept}
        if len(self._columns) < len(kept):
            raise ValueError(f"the columns {kept} cannot be told apart once they are named {renamed}; rename some")
        self._length = len(dataset)
        plain = [name for name in kept if name not in images]
        self._plain = dataset.select_columns(plain).with_format("torch")
        self._images = {name: dataset.select_columns([name]).with_format(None) for name in images if name in kept}

    def __len__(self) -> int:
        return self._length

    def take(self, index: Tensor) -> Batch:
        """The rows at `index`."""
        index = within(index.cpu(), len(self))
        positions = index.tolist()
        plain = self._plain[positions] if self._plain.column_names else {}
        batch: Batch = {
            name: self._decoded(source, positions) if source in self._images else plain[source]
            for name, source in self._columns.items()
        }
        return batch | {name: pick(column, index) for name, column in self.beside.items()}

    def column(self, name: str) -> Column:
        """All values of one column; the others are not read."""
        if name in self.beside:
            return self.beside[name]
        if name not in self._columns:
            raise KeyError(f"there is no column {name!r}; there are {sorted({*self._columns, *self.beside})}")
        source = self._columns[name]
        if source in self._images:
            return self._decoded(source, list(range(len(self))))
        column: Column = self._plain.select_columns([source])[:][source]
        return column

    def _decoded(self, name: str, positions: list[int]) -> Column:
        images = self._images[name][positions][name]
        return stack([pixels(image, self.channels, self.size) for image in images])


def load_hub(
    path: Path,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    task: Task = "classification",
    split: str | None = None,
    size: Size | None = None,
    channels: int = 3,
) -> Source:
    """A data set written by the `save_to_disk` of Hugging Face's datasets; `split` names one of several.

    With one column of images these are x, decoded as they are taken, and must have one size unless `size`,
    one number or (height, width), resizes them; `channels` is 3 (RGB) or 1 (grey). Without one, the data set
    is a table, see `load_table`. Labels that the data set names are the classes of those names.
    """
    dataset = _read(path, split)
    identity = path.name if split is None else f"{path.name}/{split}"
    images = image_columns(dataset)
    if not images:
        if size is not None:
            raise ValueError(f"{path} has no column of images that size={size} could apply to")
        return table_source(path, identity, _chunks(dataset), target=target, features=features, task=task)
    target = target_of(path, dataset.column_names, target)
    if len(images) > 1 or (features is not None and tuple(features) != tuple(images)) or task == "regression":
        raise ValueError(
            f"{path} has the images {images}; one column of images can be x, for classification, and nothing "
            "else can be a feature beside it"
        )
    names, answers = classify(_named(dataset, target), f"{path}: the column {target!r}")
    beside = {"y": answers, "id": row_ids(identity, len(dataset))}
    only = dataset.select_columns(images)
    rows = Records(only, beside=beside, size=size or _one_size(path, only, images[0]), channels=channels)
    files = sorted(path.rglob("*.arrow"))
    return Source(rows, names, fingerprint=fingerprint(rows, files, names, rows.size, channels))


def is_hub_dataset(data: object) -> bool:
    """Whether `data` is a `datasets.Dataset`, which has rows by position."""
    import datasets  # noqa: PLC0415 - an optional dependency

    return isinstance(data, datasets.Dataset)


def image_columns(dataset: Any) -> list[str]:
    """The names of the columns that are images."""
    import datasets  # noqa: PLC0415 - an optional dependency

    return [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]


def _read(path: Path, split: str | None) -> Any:
    try:
        import datasets  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(f"reading {path} needs datasets: pip install 'everlearn[hub]'") from error
    for state in path.rglob("state.json"):
        if not any(state.parent.glob("*.arrow")):  # the library writes no file then, and fails to read none
            raise ValueError(f"{state.parent} has no rows")
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"{path} has the splits {list(found)}; say which, as in split={next(iter(found))!r}")
        return found[split]
    if split is not None:
        raise ValueError(f"{path} is one data set without splits; leave out split={split!r}")
    return found


def _chunks(dataset: Any) -> Iterator[Chunk]:
    for table in dataset.with_format("arrow").iter(batch_size=CHUNK):
        yield {name: _cells(dataset, name, table.column(name)) for name in table.column_names}


def _named(dataset: Any, target: str) -> list[Any]:
    return list(_cells(dataset, target, dataset.select_columns([target]).with_format("arrow")[:].column(target)))


def _cells(dataset: Any, name: str, column: Any) -> Cells:
    """The cells of a column, with the names of the classes where the data set has them."""
    import datasets  # noqa: PLC0415 - an optional dependency

    feature = dataset.features[name]
    if not isinstance(feature, datasets.ClassLabel):
        return arrow_cells(column)
    # The library writes -1 for a row whose label it does not know.
    return [None if code is None or code < 0 else feature.names[code] for code in column.to_pylist()]


def _one_size(path: Path, dataset: Any, name: str) -> tuple[int, int]:
    sizes: dict[tuple[int, int], int] = {}
    for row, item in enumerate(dataset.with_format(None)):
        sizes.setdefault((item[name].height, item[name].width), row)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"{path}: all images must have one size, but row {first + 1} has {one} and row {second + 1} has "
            f"{other} (height, width); resize them all by size=... (--size on the command line)"
        )
    return next(iter(sizes))
