"""Weights between weights: WiSE-FT and model soups, which cost nothing when the model is asked.

Both rest on one finding: models that were fine-tuned from the same start are often joined by a line of weights along
which the loss stays low. Models that share no start are not, and their mean is worth nothing. So the weights are
compared first, and refused where their cosine says that they cannot come from one start.

Statistics of batch normalisation are those of the weights that they were counted with. They are counted anew after
every mix, and for that some training rows are needed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, Rows, move, unlabeled
from everlearn.data.transforms import View
from everlearn.metrics.evaluate import evaluate
from everlearn.models.heads import head_weights
from everlearn.models.scope import counting
from everlearn.models.views import Weights, bare, device_of, evaluating, snapshot
from everlearn.objective import Objective, Viewed, classify
from everlearn.transfer.statistics import recompute_statistics

Score = Callable[[nn.Module], float]
"""How good a model is; more is better. `validated` makes one from rows."""

GRID = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Between:
    """The weights at the place `alpha` of a line; the model holds them."""

    alpha: float
    weights: Weights
    score: float | None
    curve: tuple[tuple[float, float], ...]
    """Each place that was asked about, and its score."""


@dataclass(frozen=True)
class Soup:
    """The mean of the `members`, by their numbers in the order they were taken in; the model holds it."""

    members: tuple[int, ...]
    weights: Weights
    score: float | None
    tried: tuple[tuple[tuple[int, ...], float], ...]
    """Each soup that was asked about, and its score."""


def validated(rows: Rows, objective: Objective = classify, *, view: View | None = None) -> Score:
    """The score that is the accuracy on `rows`, in eval mode. They must be neither the training nor the test rows."""
    seen = objective if view is None else Viewed(objective, view)

    def score(model: nn.Module) -> float:
        device = device_of(model)

        def predict(batch: Batch) -> Tensor:
            return seen(model, move(unlabeled(batch), device)).logits

        with evaluating(model):
            return evaluate(predict, rows).value

    return score


class Settings(TypedDict, total=False):
    """What all ways of mixing take besides."""

    rows: Rows | None
    """Training rows, on which statistics of batch normalisation are counted anew; a model that has some needs them."""
    objective: Objective
    """That of the learner; `classify`, if it is left out."""
    view: View | None
    """That of the learner."""
    classes: Sequence[Sequence[str]] | None
    """The names of the classes that each of the members answers about, which must be the same."""
    related: float
    """The least cosine that two members must have, 0.5 if it is left out."""


def wise_ft(
    model: nn.Module,
    before: Weights,
    after: Weights,
    *,
    alpha: float | None = None,
    score: Score | None = None,
    grid: Sequence[float] = GRID,
    **settings: Unpack[Settings],
) -> Between:
    """Gives `model` the weights (1 - alpha) `before` + alpha `after`: fine-tuning made robust, at no cost.

    Both are states by name, as `snapshot(model)` gives them, before and after fine-tuning. `alpha` is given, or is the
    place of `grid` with the best `score`, of equals the one nearest to `before`. At 0 and 1 the weights are those
    given, bit for bit, and what is the same in both, as frozen weights are, is so everywhere. `Settings` tells the
    others, of which `rows` are needed by a model with batch normalisation.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903, where 0.5 is the alpha to take
    without validation rows. Departure: statistics of batch normalisation.
    """
    if (alpha is None) == (score is None):
        raise ValueError("say either which alpha, or by which score to choose one: alpha=0.5, or score=validated(rows)")
    places = tuple(grid) if alpha is None else (alpha,)
    if not places or not all(0 <= place <= 1 for place in places):
        raise ValueError(f"alpha must be between 0, the weights before, and 1, those after, but is {list(places)}")
    mix = _Mix(model, (before, after), **settings)
    with _kept(model):
        curve, best = [], places[0]
        if score is not None:
            for place in places:
                mix({0: 1 - place, 1: place})
                curve.append((place, _asked(score, model)))
            best = max(curve, key=lambda each: (each[1], -each[0]))[0]
        mix({0: 1 - best, 1: best})
    return Between(best, snapshot(model), dict(curve).get(best), tuple(curve))


def uniform_soup(model: nn.Module, members: Sequence[Weights], **settings: Unpack[Settings]) -> Soup:
    """Gives `model` the mean of the weights of all `members`, which were fine-tuned from one start.

    Settings are those of `wise_ft`. Wortsman et al. 2022, "Model soups", arXiv:2203.05482.
    """
    mix, everyone = _Mix(model, members, **settings), tuple(range(len(members)))
    with _kept(model):
        mix(dict.fromkeys(everyone, 1 / len(members)))
    return Soup(everyone, snapshot(model), None, ())


def greedy_soup(model: nn.Module, members: Sequence[Weights], score: Score, **settings: Unpack[Settings]) -> Soup:
    """Gives `model` the mean of those `members` that do the soup no harm: never worse by `score` than the best alone.

    From the best member to the worst, each is taken in if the score does not drop. Settings are those of `wise_ft`.
    Wortsman et al. 2022, "Model soups", arXiv:2203.05482.
    """
    mix = _Mix(model, members, **settings)
    tried: list[tuple[tuple[int, ...], float]] = []

    def asked(chosen: tuple[int, ...]) -> float:
        mix(dict.fromkeys(chosen, 1 / len(chosen)))
        tried.append((chosen, _asked(score, model)))
        return tried[-1][1]

    with _kept(model):
        alone = [asked((member,)) for member in range(len(members))]
        first, *others = sorted(range(len(members)), key=lambda member: -alone[member])
        chosen: tuple[int, ...] = (first,)
        best = alone[first]
        for member in others:
            if (found := asked((*chosen, member))) >= best:
                chosen, best = (*chosen, member), found
        mix(dict.fromkeys(chosen, 1 / len(chosen)))
    return Soup(chosen, snapshot(model), best, tuple(tried))


@dataclass(frozen=True)
class _Mix:
    """Mixes the members into the model, after it has made sure that this can be done."""

    model: nn.Module
    members: Sequence[Weights]
    rows: Rows | None = None
    objective: Objective = classify
    view: View | None = None
    classes: Sequence[Sequence[str]] | None = None
    related: float = 0.5

    def __post_init__(self) -> None:
        _alike(self.model, self.members)
        _same_classes(self.classes, len(self.members))
        _of_one_start(self.model, self.members, self.related)

    @torch.no_grad()
    def __call__(self, shares: Mapping[int, float]) -> None:
        """Gives the model the sum of the members by their shares, which are 1 together.

        Whole numbers are those of the last one that has any.
        """
        parts = [(self.members[member], share) for member, share in shares.items() if share]
        mix = dict(parts[-1][0])
        if len(parts) > 1:
            for name, last in mix.items():
                if last.is_floating_point() or last.is_complex():
                    mix[name] = _between([(part[name].to(last.device), share) for part, share in parts])
        bare(self.model).load_state_dict(mix)
        if len(parts) > 1:
            self._recount()

    def _recount(self) -> None:
        """Counts the statistics of normalisations anew, where there are any."""
        norms = counting(self.model)
        if norms and self.rows is None:
            name, norm = next(iter(norms.items()))
            raise ValueError(
                f"the statistics of {type(norm).__name__} {name!r} are of other weights than these, and must be "
                "counted anew: give some training rows, rows=..."
            )
        if norms and self.rows is not None:
            recompute_statistics(self.model, self.rows, self.objective, view=self.view)


def _between(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The sum by shares; what is the same in all of them stays as it is, which a sum of shares would round."""
    first = parts[0][0]
    wide = torch.promote_types(first.dtype, torch.float32)
    mixed = torch.stack([value.to(wide) * share for value, share in parts]).sum(0).to(first.dtype)
    return torch.where(torch.stack([value == first for value, _ in parts]).all(0), first, mixed)


def _asked(score: Score, model: nn.Module) -> float:
    found = score(model)
    if math.isnan(found):
        raise ValueError("the score of these weights is NaN, which is neither better nor worse than another; mend it")
    return found


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """If the block fails, the model is as it was."""
    before = snapshot(model)
    try:
        yield
    except BaseException:
        bare(model).load_state_dict(before)
        raise


def _alike(model: nn.Module, members: Sequence[Weights]) -> None:
    """Raises a ValueError unless the members are weights of this model, with heads of the same size."""
    if not members:
        raise ValueError("there is nothing to mix: give the weights of at least one model")
    own = {name: tuple(value.shape) for name, value in bare(model).state_dict().items()}
    head = _head(model)
    for place, member in enumerate(members):
        theirs = {name: tuple(value.shape) for name, value in member.items()}
        other = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
        if other and set(other) <= head:
            raise ValueError(
                f"the head of the weights number {place} has the shape {theirs.get(other[0])}, and that of the model "
                f"{own.get(other[0])}: they answer about different classes, so no output means the same in both; "
                "fine-tune heads of the same classes"
            )
        if other:
            raise ValueError(
                f"the weights number {place} are not of this {type(bare(model)).__name__}: {other[0]!r} is "
                f"{theirs.get(other[0])} there, and {own.get(other[0])} here"
            )


def _same_classes(classes: Sequence[Sequence[str]] | None, count: int) -> None:
    """Raises a ValueError unless all members answer about the same classes, as far as these are told."""
    names = [list(each) for each in classes or ()]
    if classes is not None and (len(names) != count or any(one != names[0] for one in names)):
        raise ValueError(
            f"weights can be mixed where all answer about the same classes in the same order, but these are {names}"
        )


def _of_one_start(model: nn.Module, members: Sequence[Weights], related: float) -> None:
    """Raises a ValueError where the cosine of two members says that they share no start."""
    head = _head(model)
    body = [name for name, weight in bare(model).named_parameters() if weight.dim() > 1 and name not in head]
    for place, (first, second) in enumerate(pairwise(members)):
        nearness = _cosine([first[name] for name in body], [second[name] for name in body]) if body else 1.0
        if not nearness >= related:
            raise ValueError(
                f"the weights number {place} and {place + 1} have a cosine of {nearness:.2f}, so they hardly share a "
                f"start (at least {related:g} was asked for), and what lies between them is no good model; fine-tune "
                "both from the same weights. If they do share a start, set related=-1"
            )


def _head(model: nn.Module) -> set[str]:
    """The names of the weights of the head, if there is one."""
    linear = any(isinstance(layer, nn.Linear) for layer in bare(model).modules())
    return set(head_weights(bare(model))) if linear else set()


def _cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    a, b = (torch.cat([value.detach().reshape(-1).float().cpu() for value in each]) for each in (first, second))
    if torch.equal(a, b):
        return 1.0  # also of weights that are zero
    return float(torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny))
