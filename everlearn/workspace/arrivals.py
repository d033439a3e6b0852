"""The data that a user names, as the past and the arrivals of a run: what is learned, and what is tested on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everlearn import border
from everlearn.batch import Batch, Column, Rows, tensor
from everlearn.data import Concat, Relabelled, Source, Subset, is_images, load, load_unlabelled
from everlearn.data.hashing import name_id, row_ids
from everlearn.data.rows import Around
from everlearn.models import Classes, read_classes
from everlearn.streams import Experience
from everlearn.workspace.config import Config, sides
from everlearn.workspace.model import Loaded


@dataclass(frozen=True)
class Data:
    """What there is to learn and to be tested on. Experience 0 is the past; the others are the arrivals."""

    past: Experience
    arrivals: tuple[Experience, ...]
    names: tuple[str, ...]
    """Of the experiences."""
    classes: tuple[str, ...]
    """All classes, in the order of the outputs they have or will have."""
    known: int
    """How many of them the model answers for before it learns."""
    held_out: bool
    """Whether tests are rows that were held out, for want of test data."""
    quarantined: tuple[Path, ...]


def load_sources(config: Config, loaded: Loaded | None = None) -> dict[str, Source]:
    """All data of a run as the model that was `loaded` takes it, by path; those without labels by `bare` of it.

    >>> bare("new/photos")
    'new/photos, without labels'
    """
    labelled = {
        path: _load(config, path, loaded) for path in dict.fromkeys((config.old, *config.data, *config.test)) if path
    }
    return labelled | {bare(path): _load(config, path, loaded, labels=False) for path in config.unlabelled}


def bare(path: str) -> str:
    """What data is called whose labels, if it has any, are not looked at."""
    return f"{path}, without labels"


def arrange(config: Config, sources: dict[str, Source], outputs: int, loaded: Loaded | None = None) -> Data:
    """The experiences that the data make for a model with `outputs` outputs, if it is known the one `loaded`."""
    alike(sources, texts=loaded is not None and loaded.text)
    regression = config.task == "regression"
    carried = () if loaded is None else loaded.classes
    classes = Classes() if regression else Classes(_known_classes(config, sources, outputs, carried))
    known = len(classes)
    if config.old and not regression:
        _none_unknown(f"the old data {config.old}", sources[config.old].names, classes, "new classes come with --data")
    for path in config.data:
        classes.add(name for name in sources[path].names if name not in classes)
    for path in config.test if not regression else ():
        _none_unknown(f"the test data {path}", sources[path].names, classes, "leave their rows out")
    rows = {
        path: source.rows if regression else Relabelled(source.rows, classes.table(source.names))
        for path, source in sources.items()
    }
    train = [rows[config.old] if config.old else None, *(rows[path] for path in config.data)]
    tests, apart = _tests(config, rows, train, regression=regression, known=known)
    experiences = []
    for index, (path, learn, test) in enumerate(zip((config.old, *config.data), train, tests, strict=True)):
        labels = () if regression or learn is None else labels_of(learn)
        if index == 0 and not regression:
            labels = tuple(range(known))
        if learn is None:
            experiences.append(Experience(index, nothing(train), test, labels))
            continue
        kept = Subset(learn, held_out(learn, config.holdout, test=False)) if apart else learn
        experiences.append(Experience(index, distinct(Path(path), kept, sources[path]), test, labels))
    quarantined = tuple(path for source in sources.values() for path in source.quarantined)
    return Data(
        experiences[0],
        tuple(experiences[1:]),
        ("old", *(name_of(path, place, config.data) for place, path in enumerate(config.data, 1))),
        classes.names,
        known,
        apart,
        quarantined,
    )


def load_questions(config: Config, outputs: int, loaded: Loaded) -> tuple[Rows, tuple[str, ...], int]:
    """All rows of `config.data`, the names of their classes, and how many of these the model that was `loaded` knows.

    The others count as wrong answers. Old data, where there is some, is read for the names of its classes only.
    """
    sources = {path: _load(config, path, loaded) for path in dict.fromkeys((config.old, *config.data)) if path}
    alike(sources, texts=loaded.text)
    if config.task == "regression":
        return Concat([sources[path].rows for path in config.data]), (), 0
    classes = Classes(_known_classes(config, sources, outputs, loaded.classes))
    known = len(classes)
    rows = []
    for source in (sources[path] for path in config.data):
        classes.add(name for name in source.names if name not in classes)
        rows.append(Relabelled(source.rows, classes.table(source.names)))
    return Concat(rows), classes.names, known


def _load(config: Config, path: str, loaded: Loaded | None = None, *, labels: bool = True) -> Source:
    text = loaded is not None and loaded.text
    options: dict[str, Any] = {"task": config.task, "channels": config.channels}
    if config.size:
        options["size"] = sides(config.size)
    elif loaded is not None and loaded.size is not None and is_images(path):
        options["size"] = loaded.size
    if Path(path).is_file():
        Path(path).open("rb").close()  # who may not read it should hear that, and not that it is damaged
    try:
        read: Callable[..., Source] = load if labels else load_unlabelled
        features = config.features or (("text",) if text else None)
        source = read(path, target=config.target or None, features=features, **options)
    except ImportError as error:  # an optional dependency, with the way to install it
        raise ValueError(str(error)) from error
    if source.rows.resident:
        _clean(path, source.rows)
    return source


def _clean(path: str, rows: Rows) -> None:
    """Raises a `NonFiniteError` that names the path unless all numbers are of a size to compute with.

    Some rows at a time, since they may lie on disk. Images and whole numbers need not be looked at.
    """
    if not any(isinstance(column, torch.Tensor) and column.is_floating_point() for column in _sample(rows).values()):
        return
    for start in range(0, len(rows), 65_536):
        try:
            border.clean(rows.take(torch.arange(start, min(start + 65_536, len(rows)))))
        except border.NonFiniteError as error:
            after = f", after {start:,} rows" if start else ""
            raise border.NonFiniteError(f"{path}{after}: {error}") from error


def _sample(rows: Rows) -> Batch:
    return rows.take(torch.zeros(1, dtype=torch.int64))


def alike(sources: dict[str, Source], *, texts: bool = False) -> None:
    """Raises a ValueError unless all rows are of one kind, and tables have their features in one order."""
    samples = {path: _sample(source.rows) for path, source in sources.items()}
    (first, model), *others = ((path, sample.get("x")) for path, sample in samples.items())
    if texts and all(isinstance(sample.get("text"), list) for sample in samples.values()):
        return
    if texts or not isinstance(model, torch.Tensor):
        raise ValueError(
            f"the model takes texts, but not all of {', '.join(sources)} are; give tables with one column of texts "
            "beside the answers, and name it by --features unless it is called text"
            if texts
            else f"the rows of {first} are texts, or images that differ in size; expected numbers, or images of one "
            "size (--size resizes them); texts need a model that takes them, as in --base hf:FOLDER"
        )
    for path, x in others:
        if not isinstance(x, torch.Tensor) or (x.dtype, x.shape) != (model.dtype, model.shape):
            raise ValueError(
                f"all data must be of one kind, but the rows of {first} are {_kind(model)} and those of {path} "
                f"{_kind(x)}; save them alike" + (", or resize images by --size" if model.ndim == 4 else "")
            )
    features = {path: source.features for path, source in sources.items() if source.features}
    if len(set(features.values())) > 1:
        (one, its), (other, theirs) = next(
            ((a, features[a]), (b, features[b])) for a in features for b in features if features[a] != features[b]
        )
        raise ValueError(
            f"the columns of {one} are {', '.join(its)}, but those of {other} are {', '.join(theirs)}; name those "
            "that the model takes, in its order: --features a,b,..."
        )


def _kind(x: Column | None) -> str:
    return f"{x.dtype} of shape {tuple(x.shape[1:])}".removeprefix("torch.") if isinstance(x, torch.Tensor) else "texts"


def _none_unknown(what: str, names: tuple[str, ...], classes: Classes, way_out: str) -> None:
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(
            f"{what} has classes that the model does not know: {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            + f"; {way_out}"
        )


@dataclass(frozen=True, eq=False)
class Marked(Around):
    """Rows whose ids no other data has: they are those of `rows`, moved by `mark`."""

    rows: Rows
    mark: int

    def take(self, index: torch.Tensor) -> Batch:
        """The rows at `index`, under their new ids."""
        batch = self.rows.take(index)
        return batch | {"id": tensor(batch, "id") ^ self.mark}

    def column(self, name: str) -> Column:
        """The column's values; those of "id" are the new ids."""
        column = self.rows.column(name)
        return torch.as_tensor(column) ^ self.mark if name == "id" else column


def distinct(path: Path, rows: Rows, source: Source) -> Rows:
    """The rows with ids of their own: a file of tomorrow may have the name and the places of one of today.

    The ids that a table has itself are kept, since they say which rows are the same.
    """
    ids = source.rows.column("id")
    own = path.is_file() and not torch.equal(torch.as_tensor(ids), row_ids(path.name, len(ids)))
    return rows if own else Marked(rows, name_id(source.fingerprint))


def _known_classes(
    config: Config, sources: dict[str, Source], outputs: int, carried: tuple[str, ...] | None = ()
) -> tuple[str, ...]:
    """The names of the classes that the model answers for."""
    if config.classes:
        if len(config.classes) != outputs:
            raise ValueError(f"--classes names {len(config.classes)} classes, but the model has {outputs} outputs")
        return config.classes
    carried = carried or (None if config.base else read_classes(config.weights))
    if carried is not None:
        return carried
    weights = Path(config.base or config.weights)
    for beside in (weights.with_suffix(".safetensors"), weights.with_suffix("") / f"{weights.stem}.safetensors"):
        if beside.is_file() and (carried := read_classes(beside)) is not None and len(carried) == outputs:
            return carried
    old = sources[config.old].names if config.old else ()
    if len(old) == outputs:
        return old
    seen = {name for source in sources.values() for name in source.names}
    if all(name.isdecimal() for name in seen):
        return tuple(map(str, range(outputs)))
    raise ValueError(
        f"the model answers for {outputs} classes, but nothing says which: the weights carry no names, and "
        + (f"--old has {len(old)} classes" if config.old else "there is no --old data")
        + "; name them in the order of the outputs: --classes cat,dog,..."
    )


def _tests(
    config: Config, rows: dict[str, Rows], train: list[Rows | None], *, regression: bool, known: int
) -> tuple[list[Rows], bool]:
    """The test rows of the past and of each arrival, and whether they have to be held out of the training rows."""
    if not config.test:
        none = nothing(train)
        return [none if r is None else Subset(r, held_out(r, config.holdout, test=True)) for r in train], True
    if len(config.test) == len(train):
        return [rows[path] for path in config.test], False
    if len(config.test) > 1:
        raise ValueError(
            f"{len(config.test)} sets of test data were given; expected one, or {len(train)}: one for old data and one "
            f"for each of the arrivals ({len(config.data)})"
        )
    test = rows[config.test[0]]
    if regression:
        return [test for _ in train], False
    labels = torch.as_tensor(test.column("y"))
    parts = [torch.isin(labels, torch.tensor(own)).nonzero().flatten() for own in _own_classes(train, known)]
    for part, name in zip(parts, ("old data", *config.data), strict=True):
        if not len(part):
            raise ValueError(
                f"the test data {config.test[0]} has no rows for the classes of {name}; give one set for old data and "
                "one for each arrival, or leave --test out to hold rows out"
            )
    return [Subset(test, part) for part in parts], False


def _own_classes(train: list[Rows | None], known: int) -> list[list[int]]:
    """What the past and each arrival are tested on: the classes that came first with it, or else all that it has."""
    first = dict.fromkeys(range(known), 0)
    own = [list(first)]
    for index, rows in enumerate(train[1:], 1):
        labels = () if rows is None else labels_of(rows)
        own.append([label for label in labels if first.setdefault(label, index) == index] or list(labels))
    return own


def held_out(rows: Rows, share: float, *, test: bool) -> torch.Tensor:
    """Positions held out for testing, or those that are not: by the hash in the row's id, so they stay the same."""
    ids = torch.as_tensor(rows.column("id"))
    out = (ids % 1_000_003) < share * 1_000_003
    return (out if test else ~out).nonzero().flatten()


def labels_of(rows: Rows) -> tuple[int, ...]:
    """The labels that there are among the rows."""
    labels: Any = rows.column("y")  # an int64 tensor
    return tuple(labels.unique().tolist())


def nothing(train: list[Rows | None]) -> Rows:
    """No rows, of the kind that there would be."""
    some = next(rows for rows in train if rows is not None)
    return Subset(some, torch.zeros(0, dtype=torch.int64))


def name_of(path: str, place: int, paths: Sequence[str]) -> str:
    """What the arrival at `place`, counted from 1, is called in tables.

    >>> name_of("dark/train", 2, ("light/train", "dark/train")), name_of("a/b.csv", 1, ("a/b.csv", "a/c.csv"))
    ('2: dark/train', '1: b')
    """
    if len(paths) == 1:
        return "new"
    stem = Path(path).stem
    same = [Path(other).stem for other in paths].count(stem) > 1
    return f"{place}: {Path(path).parent.name}/{stem}" if same else f"{place}: {stem}"
