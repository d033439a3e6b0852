"""How ten classes arrive in published protocols."""

from typing import Literal

import torch
from torch import Tensor

from everlearn.batch import Rows
from everlearn.data.rows import Relabelled, Subset, With
from everlearn.randomness import mix
from everlearn.streams.arrivals import by_class, by_domain, by_task
from everlearn.streams.experience import Experience
from everlearn.streams.permuted import permuted
from everlearn.streams.rotated import rotated

Arrival = Literal[
    "split", "split by class", "split by task", "split by domain", "permuted", "permuted by task", "rotated"
]
"""Split: (0, 1), (2, 3), ... (8, 9); with "by", pairs of digits in an order that the seed decides.

Permuted by task is permuted, and each row says which permutation it has: for methods that answer task by task.
"""


def arrive(arrival: Arrival, train: Rows, test: Rows, seed: int, *, domains: int, rows: int = 0) -> list[Experience]:
    """The stream; with `rows`, so many training rows of each experience, drawn at random."""
    stream = _whole(arrival, train, test, seed, domains)
    if not rows:
        return stream
    return [
        Experience(e.index, _drawn(e.train, rows, mix(seed, 2, e.index)), e.test, e.classes, e.task) for e in stream
    ]


def _whole(arrival: Arrival, train: Rows, test: Rows, seed: int, domains: int) -> list[Experience]:
    if arrival == "rotated":
        return rotated(train, test, domains, seed=seed)
    if arrival in {"permuted", "permuted by task"}:
        stream = permuted(train, test, domains, seed=seed)
        return stream if arrival == "permuted" else [_named(experience) for experience in stream]
    order = list(range(10)) if arrival == "split" else _shuffled(10, mix(seed, 1)).tolist()
    pairs = [(order[i], order[i + 1]) for i in range(0, 10, 2)]
    if arrival == "split by task":
        return by_task(train, test, pairs)
    stream = by_class(train, test, pairs)
    if arrival == "split by domain":
        return by_domain((_placed(e.train, e.classes), _placed(e.test, e.classes)) for e in stream)
    return stream


def _named(e: Experience) -> Experience:
    """The experience as a task, which its rows name."""
    return Experience(e.index, With(e.train, task=e.index), With(e.test, task=e.index), e.classes, e.index)


def _placed(rows: Rows, classes: tuple[int, ...]) -> Rows:
    """The rows, labelled by the place of their class among `classes`."""
    table = torch.full((max(classes) + 1,), -1)
    table[list(classes)] = torch.arange(len(classes))
    return Relabelled(rows, table)


def _drawn(rows: Rows, count: int, seed: int) -> Rows:
    return Subset(rows, _shuffled(len(rows), seed)[:count])


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
