"""Which base to begin with: scores of features that are computed once, costs, and a strategy with its reason."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from everlearn import border
from everlearn.batch import UNLABELED, Rows, tensor
from everlearn.data.rows import Subset
from everlearn.models.named import foreign
from everlearn.spec import one_of
from everlearn.transfer.bases import Base
from everlearn.transfer.costs import activations, device_of, latency
from everlearn.transfer.picture import page, svg
from everlearn.transfer.preprocessing import ImagePreprocessing
from everlearn.transfer.scores import CAUTION, SCORES, need_sklearn
from everlearn.transfer.strategy import Case, Proposal, propose

if TYPE_CHECKING:
    from rich.table import Table

RANKING = ("logme", "h-score", "n-leep", "knn")
"""The scores that bases are ranked by, unless others are asked for."""


@dataclass(frozen=True)
class Candidate:
    """What is known of one base."""

    name: str
    weights: str | None
    licence: str | None
    """Of the weights; None where nobody said."""
    scores: dict[str, float]
    rank: float
    """The mean, over the scores, of its place among the bases; 1 is the best."""
    latency: float
    """Milliseconds a row on this machine: the median over repetitions, in batches."""
    parameters: int
    weight_bytes: int
    activation_bytes: int
    """What the layers give out for one row, all together: what training has to keep."""
    width: int
    """Of the features."""
    input_size: tuple[int, int, int] | None
    """(channels, height, width) that the features were computed at."""


@dataclass(frozen=True)
class Choice:
    """The bases, the best first, and a strategy for the first of them."""

    candidates: tuple[Candidate, ...]
    proposal: Proposal
    scores: tuple[str, ...]
    rows: int
    """That the scores were computed on."""
    of: int
    """Labelled rows that there are."""
    classes: int
    machine: str

    @property
    def best(self) -> Candidate:
        """The first."""
        return self.candidates[0]

    def summary(self) -> str:
        """In a few sentences."""
        method = f" with {self.proposal.method}" if self.proposal.method not in {"", self.proposal.strategy} else ""
        return (
            f"Begin with {self.best.name}, by {self.proposal.strategy}{method}: {self.proposal.reason} "
            f"({self.proposal.source})."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "best": self.best.name,
            "summary": self.summary(),
            "caution": CAUTION,
            "strategy": self.proposal.to_json(),
            "scores": list(self.scores),
            "rows": self.rows,
            "of": self.of,
            "classes": self.classes,
            "machine": self.machine,
            "candidates": [dict(vars(candidate)) for candidate in self.candidates],
        }

    def table(self) -> "Table":
        """The candidates as a table for a terminal."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is needed here only
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        grid.add_column("base", overflow="fold", ratio=1)
        for name in ("rank", *self.scores, "ms/row"):
            grid.add_column(name, justify="right", no_wrap=True)
        for row in self.cells()[1:]:
            name, *numbers, parameters, megabytes, licence = row
            about = f"\n{parameters} parameters, {megabytes} MB, licence: {licence}"
            grid.add_row(Text(name).append(about, style="dim"), *numbers, end_section=True)
        return grid

    def cells(self) -> list[tuple[str, ...]]:
        """What tables show: a header, and a line for each base."""
        head = ("base", "rank", *self.scores, "ms/row", "params", "MB", "licence")
        return [head, *(self._line(one) for one in self.candidates)]

    def _line(self, one: Candidate) -> tuple[str, ...]:
        size = "" if one.input_size is None else f" at {'x'.join(map(str, one.input_size[1:]))}"
        return (
            one.name + ("" if one.weights else " (no weights)") + size,
            f"{one.rank:.3g}",
            *(f"{one.scores[name]:.3f}" for name in self.scores),
            f"{one.latency:.3g}",
            f"{one.parameters / 1e6:.3g} M",
            f"{(one.weight_bytes + one.activation_bytes) / 1e6:,.1f}",
            one.licence or "unknown",
        )

    def to_svg(self) -> str:
        """Each score against the cost, as one picture."""
        return svg(self)

    def to_html(self) -> str:
        """One page with all of it: no script, nothing from outside."""
        return page(self)


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


def stratified(y: Tensor, most: int, seed: int = 0, names: Sequence[str] = ()) -> Tensor:
    """At most `most` positions of labelled rows, in order: of each class its share, and at least two.

    Which ones is a function of `seed` and the labels. `names` are what errors call the classes.

    >>> stratified(torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, -100]), 5, seed=0)
    tensor([0, 1, 3, 4, 7])
    """
    known = (y != UNLABELED).nonzero().flatten()
    present, place, counts = torch.unique(y[known], return_inverse=True, return_counts=True)
    if len(present) < 2:
        there = "one class" if len(present) else "no class"
        raise ValueError(
            f"the {len(known)} labelled rows are of {there}, so nothing can be told apart; give rows of at least two"
        )
    if int(counts.min()) < 2:
        one = int(present[counts.argmin()])
        raise ValueError(
            f"class {names[one] if names else one} has 1 row, but a score needs at least 2 rows of each class; add "
            "some, or leave the class out"
        )
    if len(known) <= most:
        return known
    if most < 2 * len(present):
        raise ValueError(
            f"{most} rows are fewer than 2 for each of the {len(present)} classes; look at {2 * len(present)} or more"
        )
    quota = _quotas(counts, most)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    order = order[place[order].argsort(stable=True)]  # class by class, each in a random order
    first = counts.cumsum(0) - counts
    within = torch.arange(len(known)) - first.repeat_interleave(counts)
    return known[order[within < quota.repeat_interleave(counts)]].sort().values


def _quotas(counts: Tensor, most: int) -> Tensor:
    """How many rows of each class are looked at, `most` in all: two each, the others in proportion to what is left."""
    spare = counts - 2
    exact = spare * ((most - 2 * len(counts)) / int(spare.sum()))
    quota = exact.floor().long()
    short = most - 2 * len(counts) - int(quota.sum())
    quota[(quota - exact).argsort(stable=True)[:short]] += 1  # the largest remainders
    return quota + 2


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
