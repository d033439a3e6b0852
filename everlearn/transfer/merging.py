"""Weights between weights: WiSE-FT and model soups, which cost nothing when the model is asked.

Both rest on one finding: models that were fine-tuned from the same start are often joined by a line of weights along
which the loss stays low. Models that share no start are not, and their mean is worth nothing. So the weights are
compared first, and refused where their cosine says that they cannot come from one start.

Statistics of batch normalisation are those of the weights that they were counted with. They are counted anew after
every mix, and for that some training rows are needed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from everlearn.batch import Batch, Rows, move, unlabeled
from everlearn.data.transforms import View
from everlearn.metrics.evaluate import evaluate
from everlearn.models.heads import head_weights
from everlearn.models.scope import at_rest
from everlearn.models.views import Weights, bare, evaluating, snapshot
from everlearn.objective import Objective, Viewed, classify
from everlearn.transfer.freezing import recompute_statistics

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
        device = next((weight.device for weight in model.parameters()), torch.device("cpu"))

        def predict(batch: Batch) -> torch.Tensor:
            return seen(model, move(unlabeled(batch), device)).logits

        with evaluating(model):
            return evaluate(predict, rows).value

    return score


def wise_ft(
    model: nn.Module,
    before: Weights,
    after: Weights,
    *,
    alpha: float | None = None,
    score: Score | None = None,
    grid: Sequence[float] = GRID,
    rows: Rows | None = None,
    objective: Objective = classify,
    view: View | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    related: float = 0.5,
) -> Between:
    """Gives `model` the weights (1 - alpha) `before` + alpha `after`: fine-tuning made robust, at no cost.

    Both are states by name, as `snapshot(model)` gives them, before and after fine-tuning. `alpha` is given, or is the
    place of `grid` with the best `score`, of equals the one nearest to `before`. At 0 and 1 the weights are those
    given, bit for bit; between them statistics of batch normalisation are counted anew on `rows`, training rows, which
    a model that has some needs; `objective` and `view` are the learner's. `classes`, the names of the classes that each
    of the two answers about, must be the same. `related` is the least cosine of the two weights.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903, where 0.5 is the alpha to take
    without validation rows. Departure: statistics of batch normalisation.
    """
    if (alpha is None) == (score is None):
        raise ValueError("say either which alpha, or by which score to choose one: alpha=0.5, or score=validated(rows)")
    places = tuple(grid) if alpha is None else (alpha,)
    if not places or not all(0 <= place <= 1 for place in places):
        raise ValueError(f"alpha must be between 0, the weights before, and 1, those after, but is {list(places)}")
    _alike(model, (before, after), classes, related)
    recount = partial(_recounted, rows=rows, objective=objective, view=view)
    with _kept(model):
        curve, best = [], places[0]
        if score is not None:
            for place in places:
                _mixed(model, {0: 1 - place, 1: place}, (before, after), recount)
                curve.append((place, score(model)))
        if curve:
            best = max(curve, key=lambda each: (each[1], -each[0]))[0]
        _mixed(model, {0: 1 - best, 1: best}, (before, after), recount)
    return Between(best, snapshot(model), dict(curve).get(best), tuple(curve))


def uniform_soup(
    model: nn.Module,
    members: Sequence[Weights],
    *,
    rows: Rows | None = None,
    objective: Objective = classify,
    view: View | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    related: float = 0.5,
) -> Soup:
    """Gives `model` the mean of the weights of all `members`, which were fine-tuned from one start.

    Settings are those of `wise_ft`. Wortsman et al. 2022, "Model soups", arXiv:2203.05482.
    """
    _alike(model, members, classes, related)
    everyone = tuple(range(len(members)))
    recount = partial(_recounted, rows=rows, objective=objective, view=view)
    with _kept(model):
        _mixed(model, dict.fromkeys(everyone, 1 / len(members)), members, recount)
    return Soup(everyone, snapshot(model), None, ())


def greedy_soup(
    model: nn.Module,
    members: Sequence[Weights],
    score: Score,
    *,
    rows: Rows | None = None,
    objective: Objective = classify,
    view: View | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    related: float = 0.5,
) -> Soup:
    """Gives `model` the mean of those `members` that do the soup no harm: never worse by `score` than the best alone.

    From the best member to the worst, each is taken in if the score does not drop. Settings are those of `wise_ft`.
    Wortsman et al. 2022, "Model soups", arXiv:2203.05482.
    """
    _alike(model, members, classes, related)
    recount = partial(_recounted, rows=rows, objective=objective, view=view)
    tried: list[tuple[tuple[int, ...], float]] = []

    def asked(chosen: tuple[int, ...]) -> float:
        _mixed(model, dict.fromkeys(chosen, 1 / len(chosen)), members, recount)
        tried.append((chosen, score(model)))
        return tried[-1][1]

    with _kept(model):
        alone = [asked((member,)) for member in range(len(members))]
        first, *others = sorted(range(len(members)), key=lambda member: -alone[member])
        chosen: tuple[int, ...] = (first,)
        best = alone[first]
        for member in others:
            if (found := asked((*chosen, member))) >= best:
                chosen, best = (*chosen, member), found
        _mixed(model, dict.fromkeys(chosen, 1 / len(chosen)), members, recount)
    return Soup(chosen, snapshot(model), best, tuple(tried))


Recount = Callable[[nn.Module], None]


@torch.no_grad()
def _mixed(model: nn.Module, shares: dict[int, float], members: Sequence[Weights], recount: Recount) -> None:
    """Gives the model the sum of the members by their shares; whole numbers are those of the last one that has any."""
    parts = [(members[member], share) for member, share in shares.items() if share]
    mix = dict(parts[-1][0])
    if len(parts) > 1:
        for name, last in mix.items():
            if last.is_floating_point():
                wide = torch.promote_types(last.dtype, torch.float32)
                terms = [part[name].to(last.device, wide) * share for part, share in parts]
                mix[name] = torch.stack(terms).sum(0).to(last.dtype)
    bare(model).load_state_dict(mix)
    if len(parts) > 1:
        recount(model)


def _recounted(model: nn.Module, rows: Rows | None, objective: Objective, view: View | None) -> None:
    """Counts the statistics of normalisations anew, where there are any."""
    norm = _counting(model)
    if norm and rows is None:
        raise ValueError(
            f"the statistics of {norm} are of other weights than these, and must be counted anew: give some training "
            "rows, rows=..."
        )
    if norm and rows is not None:
        recompute_statistics(model, rows, objective, view=view)


def _counting(model: nn.Module) -> str | None:
    """The name of a normalisation whose statistics are not frozen."""
    resting = at_rest(bare(model))
    for name, module in bare(model).named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and resting.get(name) != "frozen":
            return f"{type(module).__name__} {name!r}"
    return None


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """If the block fails, the model is as it was."""
    before = snapshot(model)
    try:
        yield
    except BaseException:
        bare(model).load_state_dict(before)
        raise


def _alike(
    model: nn.Module, members: Sequence[Weights], classes: Sequence[Sequence[str]] | None, related: float
) -> None:
    """Raises a ValueError unless the members are weights of this model, for the same classes, from one start."""
    if not members:
        raise ValueError("there is nothing to mix: give the weights of at least one model")
    own = {name: tuple(value.shape) for name, value in bare(model).state_dict().items()}
    layers = any(isinstance(layer, nn.Linear) for layer in bare(model).modules())
    head = set(head_weights(bare(model))) if layers else set()
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
    names = [list(each) for each in classes or ()]
    if classes is not None and (len(names) != len(members) or any(one != names[0] for one in names)):
        raise ValueError(
            f"weights can be mixed where all answer about the same classes in the same order, but these are {names}"
        )
    body = [name for name, weight in bare(model).named_parameters() if weight.dim() > 1 and name not in head]
    for place, (first, second) in enumerate(pairwise(members)):
        nearness = _cosine([first[name] for name in body], [second[name] for name in body]) if body else 1.0
        if not nearness >= related:
            raise ValueError(
                f"the weights number {place} and {place + 1} have a cosine of {nearness:.2f}, so they hardly share a "
                f"start (at least {related:g} was asked for), and what lies between them is no good model; fine-tune "
                "both from the same weights. If they do share a start, set related=-1"
            )


def _cosine(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    a, b = (torch.cat([value.detach().reshape(-1).float().cpu() for value in each]) for each in (first, second))
    return float(torch.dot(a, b) / (a.norm() * b.norm()))
