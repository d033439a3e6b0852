"""The data of a transfer as the arrivals of a run: labelled ones, then those without labels beside the labelled."""

from pathlib import Path

import torch

from everlearn.batch import Rows
from everlearn.data import Concat, Relabelled, Source, Subset
from everlearn.models import Classes
from everlearn.models.report import listed
from everlearn.streams import Experience
from everlearn.workspace.arrivals import Data, alike, bare, distinct, held_out, labels_of, name_of, nothing
from everlearn.workspace.config import Config


def arrange_transfer(config: Config, sources: dict[str, Source], *, texts: bool = False) -> Data:
    """The experiences; there is no past, and the head is made for the classes of the data.

    An experience of `--unlabelled` has all labelled training rows for its reference.
    """
    alike(sources, texts=texts)
    regression = config.task == "regression"
    classes = _classes(config, sources)
    rows = {
        path: source.rows if regression or not source.names else Relabelled(source.rows, classes.table(source.names))
        for path, source in sources.items()
    }
    tests = _tests(config, rows)
    arrivals: list[Experience] = []
    for index, path in enumerate(config.data, 1):
        learn = rows[path] if config.test else Subset(rows[path], held_out(rows[path], config.holdout, test=False))
        labels = () if regression else labels_of(rows[path])
        arrivals.append(Experience(index, distinct(Path(path), learn, sources[path]), tests[index - 1], labels))
    reference: Rows = arrivals[0].train if len(arrivals) == 1 else Concat([each.train for each in arrivals])
    known = () if regression else tuple(range(len(classes)))
    for index, path in enumerate(config.unlabelled, len(arrivals) + 1):
        target = distinct(Path(path), rows[bare(path)], sources[bare(path)])
        arrivals.append(Experience(index, target, tests[index - 1], known, reference=reference))
    none = nothing([each.train for each in arrivals])
    paths = (*config.data, *config.unlabelled)
    names = [Path(paths[0]).stem] if len(paths) == 1 else [name_of(p, place, paths) for place, p in enumerate(paths, 1)]
    return Data(
        Experience(0, none, none),
        tuple(arrivals),
        ("before", *names),
        classes.names,
        0,
        not config.test,
        tuple(path for source in sources.values() for path in source.quarantined),
    )


def _classes(config: Config, sources: dict[str, Source]) -> Classes:
    """Those of the labelled data, in the order of --classes where that is given."""
    classes = Classes(config.classes)
    if config.task == "regression":
        return classes
    found = dict.fromkeys(name for path in config.data for name in sources[path].names)
    if config.classes and (more := [name for name in found if name not in classes]):
        raise ValueError(f"the data has classes that --classes does not name: {listed(more)}; name all, or none")
    classes.add(name for name in found if name not in classes)
    if len(classes) < 2:
        raise ValueError(
            f"{', '.join(config.data)} has one class, {', '.join(classes)}, and there is nothing to tell it from; give "
            "a folder for each of two classes or more"
        )
    for path in config.test:
        if strange := [name for name in sources[path].names if name not in classes]:
            raise ValueError(
                f"the test data {path} has classes that --data has not: {listed(strange)}; no model of these data "
                "could answer for them: leave their rows out, or give labelled rows of them"
            )
    return classes


def _tests(config: Config, rows: dict[str, Rows]) -> list[Rows]:
    """The test rows of each arrival; there are none for rows without labels, unless they are given."""
    labelled, others = len(config.data), len(config.unlabelled)
    none = nothing([rows[config.data[0]]])
    if not config.test:
        kept = [Subset(rows[path], held_out(rows[path], config.holdout, test=True)) for path in config.data]
        return [*kept, *[none] * others]
    given = [rows[path] for path in config.test]
    if len(given) == labelled + others:
        return given
    if len(given) == labelled:
        return [*given, *[none] * others]
    raise ValueError(
        f"{len(given)} sets of test data were given; expected {labelled}, one for each of --data"
        + (f", or {labelled + others}, one for each of --data and --unlabelled" if others else "")
    )


def first_of(rows: Rows, count: int) -> Rows:
    """The first `count` rows of each class: enough to try on."""
    y = torch.as_tensor(rows.column("y"))
    keep = torch.cat([(y == label).nonzero().flatten()[:count] for label in labels_of(rows)])
    return Subset(rows, keep)
