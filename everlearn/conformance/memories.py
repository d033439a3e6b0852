"""Memories: which old rows a learner asks about again shows which ones it kept."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, Rows, numbers, plain, rows, stream
from everlearn.conformance.surplus import at
from everlearn.models.views import Weights


class Kept(NamedTuple):
    """What is left of some experiences."""

    rows: set[int]
    """The rows that are asked about again afterwards."""
    order: list[int]
    """All rows, in the order of their first coming."""
    weights: Weights
    """Those with which the experiences ended."""


def _kept(trial: Trial, experiences: list[Rows], **settings: int) -> Kept:
    """Has the experiences learned, and one more: a small batch, with draws of all of the memory but one row.

    So what was kept shows at once, before that batch can take its place. (Of all but one, since a draw of everything
    is what some libraries leave out.)
    """
    net = plain()
    subject, watch = trial.watched(net, **{"draw": max(1, settings.get("memory", 24) - 1)} | settings)
    watch.learn(subject, *experiences)
    seen = dict.fromkeys(number for each in watch.passes if each.descended for number in each.rows)
    weights = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    watch.learn(subject, rows(settings.get("batch_size", 8), (4, 5), first=LATER))
    again = {n for each in watch.passes if each.experience == len(experiences) for n in each.rows}
    return Kept({number for number in again if number < LATER}, list(seen), weights)


LATER = 10_000
"""More than the number of any row before."""


def _surprise(counts: Tensor) -> float:
    """The probability of such unequal counts, or worse, if all are equally likely: chi-square."""
    expected = counts.double().mean()
    square = ((counts - expected).square() / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.float64), square / 2))


def _fair(what: str, counts: Tensor, *, least: float) -> str:
    """The counts as evidence; a `FoundError` if all are 0, or so unequal that chance alone is below `least`."""
    chance = _surprise(counts)
    said = f"{what}: {'/'.join(f'{count:.0f}' for count in counts)} (p = {chance:.1g})"
    if chance < least or counts.sum() == 0:
        raise FoundError(said)
    return said


@check("uniform-over-the-stream", "uniform")
def uniform_over_the_stream(trial: Trial) -> str:
    """A uniform sample holds early and late rows alike.

    A memory in which what came last has pushed out what came first.

    To add the new, shuffle and cut looks fair, but gives the new a place first and the old what is left, each time.
    """
    counts, runs = torch.zeros(8), 10
    for seed in range(runs):
        kept, order, _ = _kept(trial, stream((0, 1), (2, 3), (0, 1), (2, 3)), seed=seed)
        counts += torch.tensor([float(number in kept) for number in order]).view(8, -1).sum(1)
    return _fair("kept by eighths of the stream", counts, least=1e-4)


@check("fair-when-small", "uniform")
def fair_when_small(trial: Trial) -> str:
    """With a memory of one row, each of four rows has the same chance of being the one that is kept.

    A draw that is off by one: the first rows of a stream lose their place too often.

    The row that is being offered counts, too: it is one of count + 1. In a large memory the difference cannot be seen.
    """
    counts, runs = torch.zeros(4), 60
    for seed in range(runs):
        kept, order, _ = _kept(trial, [rows(4, (0, 1))], memory=1, batch_size=1, seed=seed)
        counts += torch.tensor([float(number in kept) for number in order])
    return _fair(f"kept in {runs} runs", counts, least=1e-3)


@check("a-row-is-kept-once", "replay")
def a_row_is_kept_once(trial: Trial) -> str:
    """After many epochs a full memory holds as many different rows as it has places.

    A memory that takes a row again in each epoch, and fills up with the same rows; or one that never fills.

    A reservoir is about a stream. To it, the second epoch is more stream.
    """
    kept, order, _ = _kept(trial, [rows(40, (0, 1))], epochs=10)
    if len(kept) != 24:
        raise FoundError(f"10 epochs of {len(order)} rows leave {len(kept)} different rows in a memory of 24")
    return "24 different rows in 24 places"


@check("stored-rows-are-rows", "stores")
def stored_rows_are_rows(trial: Trial) -> str:
    """What comes back from a memory is what went in: each row that the model is asked about is one that was given.

    Rows that nobody gave: empty places of the memory, full of zeros, which are all labelled as class 0.

    A memory is laid out at its full size; until that is reached, a part of it is no memory.
    """
    given = stream(*PAIRS)
    subject, watch = trial.watched(plain(), memory=200, epochs=2)
    watch.learn(subject, *given)
    known = torch.cat([x for x, _ in given])
    strange, asked = 0, 0
    for each in watch.passes:
        asked += len(each.x)
        places = torch.tensor(each.rows).clamp(0, len(known) - 1)
        strange += int((known[places] != each.x).any(1).sum())
    if strange:
        raise FoundError(f"{strange} of {asked} rows that the model was asked about are not among those given")
    return f"{asked} rows"


@check("budget-is-kept", "budget")
def budget_is_kept(trial: Trial) -> str:
    """A memory never holds more rows than it may.

    A memory that overshoots its budget, or one that grows with the number of classes or experiences.

    Shares are rarely whole numbers: rounded up, seven of them are more than the whole.
    """
    groups, most = ((0, 1, 2), (3, 4), (5, 6), (0, 6)), 0
    subject, watch = trial.watched(plain(7), memory=20, draw=20)
    for place, experience in enumerate(stream(*groups)):
        watch.learn(subject, experience)
        mine = [each for each in watch.passes if each.experience == place and each.at < watch.ends[-1]]
        most = max(most, len({n for each in mine for n in each.rows if n < 24 * place}))
    if most > 20:
        raise FoundError(f"{most} different old rows were asked about in one experience, from a memory of 20")
    return f"at most {most} of 20"


@check("herding-is-greedy", "herding")
def herding_is_greedy(trial: Trial) -> str:
    """The mean feature of the rows kept is as near to that of their class as greedy selection gets it.

    A selection that is no better than chance, or worse.

    Each choice is compared by the sum of those before it, plus itself; with their mean in its place the choice is
    another one, and looks as plausible.
    """
    x, y = rows(40, (0, 1))
    kept, _, weights = _kept(trial, [(x, y)], epochs=8)
    with torch.no_grad():
        features = F.normalize(at(weights).body(x[:, 1:]))
    said = []
    for label in (0, 1):
        mine = features[y == label]
        places = torch.tensor([n in kept for n in numbers(x[y == label])]).nonzero().flatten()
        if not len(places):
            raise FoundError(f"no row of class {label} was kept")
        off, greedy, chance = _distances(mine, places, mine.mean(0))
        said.append(f"class {label}: {len(places)} rows, their mean {off:.4f} from that of all ")
        said[-1] += f"({greedy:.4f} if greedy, {chance:.4f} by chance)"
        # "The mean" of features of length 1 may be one of length 1, too: the paper says so, and some codes.
        other = _distances(mine, places, F.normalize(mine.mean(0), dim=0))
        if not (off <= greedy + 1e-3 * chance or other[0] <= other[1] + 1e-3 * chance):
            raise FoundError(said[-1])
    return "; ".join(said)


def _distances(features: Tensor, places: Tensor, mean: Tensor) -> tuple[float, float, float]:
    """How far the mean of some rows is from `mean`: for those at `places`, for a greedy choice, and by chance."""
    random = torch.Generator().manual_seed(0)
    draws = [torch.randperm(len(features), generator=random)[: len(places)] for _ in range(100)]
    mine, greedy, *others = (
        float((features[each].mean(0) - mean).norm()) for each in (places, _greedy(features, len(places), mean), *draws)
    )
    return mine, greedy, sum(others) / len(others)


def _greedy(features: Tensor, count: int, mean: Tensor) -> Tensor:
    """Herding: the positions of `count` rows, each the one that brings the mean of all so far nearest to `mean`."""
    total = torch.zeros_like(mean)
    chosen: list[int] = []
    for place in range(count):
        distance = (mean - (total + features) / (place + 1)).norm(dim=1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)
