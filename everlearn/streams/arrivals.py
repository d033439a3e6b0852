"""By class, by domain, by task, by time, blurry: orders in which the rows of a data set may arrive."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from everlearn.batch import UNLABELED, Rows
from everlearn.data.rows import Relabelled, Subset, With
from everlearn.streams.experience import Experience

Groups = Iterable[Sequence[int]]


def by_class(train: Rows, test: Rows, groups: Groups, *, seed: int = 0) -> list[Experience]:
    """Class-incremental: experience k has the rows whose label is in group k.

    A class may come back in later groups: its training rows are then dealt out over its appearances (by `seed`),
    and each appearance is tested on all its test rows.

    >>> from everlearn.data import Columns
    >>> rows = Columns(x=torch.arange(6.0), y=torch.tensor([0, 1, 2, 0, 1, 2]))
    >>> [len(experience.train) for experience in by_class(rows, rows, [(0, 1), (2, 0)])]
    [3, 3]
    """
    groups = [tuple(dict.fromkeys(group)) for group in groups]
    places, tests = _places(train), _places(test)
    hands = {}
    for label, appearances in Counter(label for group in groups for label in group).items():
        if label not in places:
            raise ValueError(f"no row has the label {label}; the labels are {sorted(places)}")
        mine = places[label]
        if appearances > 1:
            random = torch.Generator().manual_seed(seed + label)
            mine = mine[torch.randperm(len(mine), generator=random)]
        hands[label] = iter(mine.tensor_split(appearances))
    return [
        Experience(
            index,
            Subset(train, _sorted([next(hands[label]) for label in group])),
            Subset(test, _sorted([tests[label] for label in group if label in tests])),
            tuple(group),
        )
        for index, group in enumerate(groups)
    ]


def by_task(train: Rows, test: Rows, groups: Groups, *, seed: int = 0) -> list[Experience]:
    """Task-incremental: as `by_class`, with a column "task", and labels that count within their task."""
    groups = [tuple(group) for group in groups]
    if len({label for group in groups for label in group}) < sum(map(len, groups)):
        raise ValueError(f"each class belongs to one task, but some are in several of {groups}; use by_class")
    experiences = []
    for plain in by_class(train, test, groups, seed=seed):
        table = torch.full((max(plain.classes) + 1,), -1)
        table[list(plain.classes)] = torch.arange(len(plain.classes))
        learn, ask = (With(Relabelled(rows, table), task=plain.index) for rows in (plain.train, plain.test))
        experiences.append(Experience(plain.index, learn, ask, tuple(range(len(plain.classes))), plain.index))
    return experiences


def by_domain(domains: Iterable[tuple[Rows, Rows]]) -> list[Experience]:
    """Domain-incremental: each domain brings its own training and test rows, and all have the same classes.

    Rows get a column "domain".
    """
    return [
        Experience(index, With(train, domain=index), With(test, domain=index), _classes(_labels(train)))
        for index, (train, test) in enumerate(domains)
    ]


def by_time(
    rows: Rows, test: Rows | None = None, *, chunks: int, column: str | None = None, held_out: float = 0.2
) -> list[Experience]:
    """In the order of `column` (of the rows, where there is none), in `chunks` of equal size.

    Without `test`, the last `held_out` share of each chunk, which is its most recent part, is its test.
    """
    if not 1 <= chunks <= len(rows):
        raise ValueError(f"{len(rows)} rows cannot come in {chunks} chunks; chunks must be 1 to {len(rows)}")
    order = torch.arange(len(rows))
    if column is not None:
        order = torch.as_tensor(rows.column(column)).argsort(stable=True)
    experiences, labels = [], _labels(rows)
    for index, chunk in enumerate(order.tensor_split(chunks)):
        cut = len(chunk) if test is not None else max(1, round(len(chunk) * (1 - held_out)))
        ask = Subset(rows, chunk[cut:]) if test is None else test
        experiences.append(Experience(index, Subset(rows, chunk[:cut]), ask, _classes(labels[chunk[:cut]])))
    return experiences


def blurry(train: Rows, test: Rows, groups: Groups, *, width: float = 0.5, seed: int = 0) -> list[Experience]:
    """The mix of classes changes gradually: no border says where one group ends and the next begins.

    A row of group k arrives at the time k + width * z, with z from a standard normal distribution; the rows in
    the order of their times are cut into experiences as large as the groups. Width 0 has sharp borders: it is
    `by_class`. Each experience is tested on the classes of its group.
    """
    sharp = by_class(train, test, groups, seed=seed)
    parts = [_subset(experience.train) for experience in sharp]
    sizes = [len(part) for part in parts]
    root, where = parts[0].rows, torch.cat([part.index for part in parts])
    group = torch.arange(float(len(parts))).repeat_interleave(torch.tensor(sizes))
    random = torch.Generator().manual_seed(seed)
    times = group + width * torch.randn(len(group), generator=random)
    arrived = torch.split(where[times.argsort(stable=True)], sizes)
    labels = _labels(root)
    return [
        Experience(e.index, Subset(root, each.sort().values), e.test, _classes(labels[each]))
        for e, each in zip(sharp, arrived, strict=True)
    ]


def _subset(rows: Rows) -> Subset:
    if not isinstance(rows, Subset):
        raise TypeError("only a subset knows where its rows came from")
    return rows


def _labels(rows: Rows) -> Tensor:
    labels: Any = rows.column("y")
    return torch.as_tensor(labels)


def _classes(labels: Tensor) -> tuple[int, ...]:
    """The classes among the labels; none where they are numbers to predict."""
    return () if labels.is_floating_point() else tuple(torch.unique(labels[labels != UNLABELED]).tolist())


def _places(rows: Rows) -> dict[int, Tensor]:
    """Where the rows of each class are."""
    labels = _labels(rows)
    order = labels.argsort(stable=True)
    values, counts = torch.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), torch.split(order, counts.tolist()), strict=True))


def _sorted(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values if parts else torch.zeros(0, dtype=torch.int64)
