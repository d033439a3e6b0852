"""Which base to begin with: scores of features that are computed once, costs, and a strategy with its reason."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from everlearn import border
from everlearn.batch import UNLABELED, Rows, tensor
from everlearn.data.rows import Subset
from everlearn.models.named import foreign
from everlearn.models.views import device_of
from everlearn.spec import one_of
from everlearn.transfer.bases import Base
from everlearn.transfer.choice import Candidate, Choice
from everlearn.transfer.costs import activations, latency
from everlearn.transfer.preprocessing import ImagePreprocessing
from everlearn.transfer.sampling import stratified
from everlearn.transfer.scores import SCORES, need_sklearn
from everlearn.transfer.strategy import Case, propose

RANKING = ("logme", "h-score", "n-leep", "knn")
"""The scores that bases are ranked by, unless others are asked for."""


def choose(
    rows: Rows | Callable[[Base], Rows],
    bases: Sequence[Base] | Mapping[str, Base],
    *,
    scores: Sequence[str] = RANKING,
    most: int = 2000,
    seed: int = 0,
    out_of_distribution: bool = False,
    batch_size: int = 64,
    names: Sequence[str] = (),
    said: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Ranks the bases by how well their features, as they are, suit the rows: give it training rows, never test rows.

    `rows` are labelled rows as a base takes them, or a function that gives those for one base: the same rows, at the
    size that it wants. Of more than `most` a stratified sample is looked at, the same for all bases. Each base is run
    over them once, at its own input size; a base that does not say how it sees images sees pixels from 0 to 1. `said`
    hears which base it is. Nothing is trained, and no base is changed. `names` are what errors call the classes.
    """
    border.positive(most=most, batch_size=batch_size)
    if set(scores) != {"logme"}:
        need_sklearn()
    for name in scores:
        one_of("score", name, SCORES)
    if not scores:
        raise ValueError(f"bases are ranked by scores, but none was asked for; there are {', '.join(SCORES)}")
    if isinstance(bases, Base):
        raise TypeError(f"bases are chosen from a sequence or a mapping of them, but this is {bases.source} alone")
    if not bases:
        raise ValueError("there is no base to choose from: give at least one")
    called = list(bases) if isinstance(bases, Mapping) else _named(bases)
    each = list(bases.values()) if isinstance(bases, Mapping) else list(bases)
    sampled: Tensor | None = None
    labels = torch.empty(0)
    found = []
    for name, base in zip(called, each, strict=True):
        said(name)
        own = rows(base) if callable(rows) else rows
        y = _labels(own)
        if sampled is None:
            labels, sampled = y, stratified(y, most, seed, names)
        elif not torch.equal(y, labels):
            raise ValueError(
                f"the rows for {name} have other labels than those for {called[0]}; give all bases the same"
            )
        found.append(_examined(name, base, Subset(own, sampled), scores, batch_size))
    assert sampled is not None  # noqa: S101 (there is a base)
    places = {score: _places([values[score] for values, _ in found]) for score in scores}
    candidates = [
        Candidate(name, base.weights, base.licence, values, mean(places[score][i] for score in scores), **costs)
        for i, (name, base, (values, costs)) in enumerate(zip(called, each, found, strict=True))
    ]
    candidates.sort(key=lambda one: one.rank)
    known = labels[labels != UNLABELED]
    classes = len(torch.unique(known))
    case = Case(
        len(known) / classes,
        classes,
        candidates[0].parameters,
        out_of_distribution=out_of_distribution,
        pretrained=candidates[0].weights is not None,
    )
    return Choice(tuple(candidates), propose(case), tuple(scores), len(sampled), len(known), classes, _machine(each[0]))


def _kind(x: object) -> str:
    return f"{x.dtype} of shape {tuple(x.shape[1:])}".removeprefix("torch.") if isinstance(x, Tensor) else "no tensors"


def _machine(base: Base) -> str:
    """What latencies were measured on."""
    device, threads = device_of(base.module), torch.get_num_threads()
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def _labels(rows: Rows) -> Tensor:
    if len(rows) == 0:
        raise ValueError("there are no rows to choose a base by")
    y = tensor({"y": rows.column("y")}, "y").cpu()
    if y.dtype != torch.int64 or y.ndim != 1:
        raise TypeError(f"bases are ranked by classes, int64 labels (rows,), but y is {y.dtype} of {tuple(y.shape)}")
    return y


def _examined(
    name: str, base: Base, rows: Rows, scores: Sequence[str], batch_size: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The scores of a base, and what it costs."""
    one = rows.take(torch.zeros(1, dtype=torch.int64))
    x = one.get("x")
    if base.preprocessing is None and "text" in one:
        base.view()  # which says what is missing
    if base.preprocessing is None and isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 4:
        base = replace(base, preprocessing=ImagePreprocessing(channels=x.shape[1]))
    try:
        with foreign(f"these rows ({_kind(x)}) cannot be given to it", but=(ValueError,)):
            features = base.features(rows, batch_size=batch_size)
        batch = features.take(torch.arange(len(features)))
        f, y = tensor(batch, "x").flatten(1), tensor(batch, "y")
        values = {score: SCORES[score](f, y) for score in scores}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    weights = [*base.module.parameters(), *base.module.buffers()]
    costs = {
        "latency": latency(base, rows.take(torch.arange(min(len(rows), 16)))),
        "parameters": sum(weight.numel() for weight in base.module.parameters()),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "activation_bytes": activations(base, one),
        "width": f.shape[1],
        "input_size": base.input_size,
    }
    return values, costs


def _places(values: Sequence[float]) -> list[float]:
    """The place of each value among all, 1 for the largest; equal ones share the mean of theirs.

    >>> _places([0.5, 0.9, 0.5])
    [2.5, 1.0, 2.5]
    """
    return [sum(other > value for other in values) + (1 + values.count(value)) / 2 for value in list(values)]


def _named(bases: Sequence[Base]) -> list[str]:
    """What each base is called: its source, and a number behind it where several share one."""
    sources = [base.source for base in bases]
    return [
        source if sources.count(source) == 1 else f"{source} ({sources[: i + 1].count(source)})"
        for i, source in enumerate(sources)
    ]
