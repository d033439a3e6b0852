"""Training: samples a second of the Learner against the bare loop, doing the same work."""

from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import bare
import ours
import torch
from measure import Line, per_second, ratios, seconds
from torch import Tensor, nn

from everlearn import Experience, Method
from everlearn.data import Columns, batches, epoch_order, view
from everlearn.data.order import endless
from everlearn.methods import AGEM, EWC, GEM, MAS, ICaRL
from everlearn.models import MLP, Net, ResNet18, trainable
from everlearn.models.fisher import fisher, sensitivity
from everlearn.objective import Objective, Viewed, classify
from everlearn.randomness import mix, seeded

EXPERIENCES, CAPACITY = 5, 2000
GOALS: dict[str, float | None] = {"naive": 0.95, "er": 0.95, "ewc": 0.90, "derpp": 0.90, "lwf": 0.90}
MORE = {"ewc-gradient": None, "mas": 0.90, "agem": 0.90, "gem": 0.90, "mir": 0.90, "icarl": 0.90, "dann": 0.90}
"""Methods that are measured on the MLP, and on fewer rows. One has no goal: it is held against a loop whose loss
lacks the penalty, which is less work than ours does."""
BESIDE = ("dann",)
"""Methods that learn rows without labels beside as many labelled ones; measured on the small CNN too."""
KEPT = {"gem": 256, "icarl": 500}
"""Old rows that a memory holds, where that is not `CAPACITY`."""
TURN = 10
"""Steps that one side takes before the other has its turn."""
DRAWLESS = ("naive", "ewc", "ewc-gradient", "lwf", "mas", "gem", "icarl", "dann")
"""No random draws but the order of the rows: both sides must end with the same weights."""


@dataclass(frozen=True)
class Work:
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    size: int
    rows: int
    """Rows in each experience."""
    pixels: bool
    """Whether rows lie in RAM as uint8, to be normalised in each batch, or as floats."""


WORKS = {
    "mlp": Work(MLP, (784,), 128, 12_000, pixels=False),
    "cnn": Work(Net, (3, 32, 32), 32, 1_024, pixels=True),
    "resnet": Work(lambda: ResNet18(width=20), (3, 32, 32), 32, 96, pixels=True),
}


def goals(name: str) -> dict[str, float | None]:
    """The methods that are measured on this work, and their goals."""
    more = {"mlp": MORE, "cnn": {method: MORE[method] for method in BESIDE}}
    return GOALS | more.get(name, {})


def train(name: str, methods: list[str], runs: int, *, quick: bool) -> Iterator[Line]:
    work = WORKS[name]
    for method in methods:
        each = work.rows // (8 if method in MORE and name == "mlp" else 1) // (5 if quick else 1)
        data = list(_experiences(work, each, beside=method in BESIDE))
        rows = sum(len(experience.train) for experience in data)
        pairs = [_pair(work, method, data, run) for run in range(-1, runs)][1:]
        mine, theirs = zip(*pairs, strict=True)
        detail = f"{per_second(rows, mine)} samples/s, bare {per_second(rows, theirs)}"
        yield Line(name, method, ratios(theirs, mine), "of bare", goals(name)[method], detail=detail)


def _experiences(work: Work, rows: int, *, beside: bool) -> Iterator[Experience]:
    random = torch.Generator().manual_seed(0)
    for index in range(EXPERIENCES):
        x = torch.randint(256, (rows, *work.shape), generator=random, dtype=torch.uint8)
        y = torch.randint(2 * index, 2 * index + 2, (rows,), generator=random)
        columns, classes = Columns(x=x if work.pixels else x.float() / 255, y=y), (2 * index, 2 * index + 1)
        if beside:  # the same pixels, the other way round
            unlabelled = Columns(x=columns.column("x").flip(-1))
            yield Experience(index, unlabelled, columns, classes, reference=columns)
        else:
            yield Experience(index, columns, columns, classes)


def _pair(work: Work, method: str, data: list[Experience], run: int) -> tuple[float, float]:
    """The seconds that both take for all experiences, taking turns.

    What happens once at the end of an experience (importances, the teacher, the choice of old rows) is off the clock.
    """
    torch.manual_seed(0)
    model = work.model()
    twin, start = deepcopy(model), deepcopy(model)
    seen = view("cifar10") if work.pixels else None
    objective: Objective = classify if seen is None else Viewed(classify, seen)
    learner = ours.learner(method, model, work.size, KEPT.get(method, CAPACITY), seen)
    with seeded(mix(0, twin.head.in_features)):  # so is the discriminator of the method drawn
        loop = bare.LOOPS[method](
            twin,
            ours.optimizer(twin.parameters()),
            bare.normalised if work.pixels else bare.as_stored,
            work.size,
            bare.Reservoir(CAPACITY),
        )
    took = [0.0, 0.0]
    for experience in data:
        x, y = experience.train.column("x"), (experience.reference or experience.train).column("y")
        order = epoch_order(len(x), 0, experience.index, 0)  # that of the Learner with seed 0
        sides: tuple[Iterator[object], ...] = (learner.steps(experience), loop.learn(x, y, order))
        left = -(-len(x) // work.size)
        loop.source = _source(experience, work.size, left)
        while left:
            turn = min(left, TURN)
            left -= turn
            for which in (0, 1) if (left // TURN + run) % 2 else (1, 0):
                took[which] += seconds(lambda side=sides[which], turn=turn: deque(islice(side, turn), maxlen=0))
        deque(sides[0], maxlen=0)  # to the end of the experience
        loop.end(_found(learner.method, twin, experience, objective), max(experience.classes) + 1)
        if method in DRAWLESS and experience.index == 1:
            _check(start, model, twin)
    return took[0], took[1]


def _source(experience: Experience, size: int, steps: int) -> tuple[Tensor, ...]:
    """What stands beside the rows of the experience: x, y, and their order, that of the Learner with seed 0."""
    rows = experience.reference
    if rows is None:
        return ()
    places = Columns(place=torch.arange(len(rows)))
    near = endless(places, size, 0, seed=mix(0, 1 << 39), experience=experience.index)
    return rows.column("x"), rows.column("y"), torch.cat([batch["place"] for batch in islice(near, steps)])


def _found(method: Method, twin: nn.Module, experience: Experience, objective: Objective) -> list[Tensor]:
    """What the loop by hand is given at an end: importances of its own model; the old rows that ours has chosen."""
    rows = batches(experience.train, torch.arange(len(experience.train)), 128)
    match method:
        case EWC():
            return list(fisher(twin, rows, objective, "empirical").values())
        case MAS():
            return list(sensitivity(twin, rows, objective).values())
        case AGEM() | GEM():
            kept = method.memory.rows()
            return [kept[name] for name in ("x", "y", "experience") if name in kept]
        case ICaRL():
            walk = epoch_order(len(method.exemplars), 0, 0, 0)  # that of the method with seed 0
            return [method.exemplars.rows[name].index_select(0, walk) for name in ("x", "y")]
    return []


def _check(start: nn.Module, ours: nn.Module, theirs: nn.Module) -> None:
    """Both must have gone to the same place once something old is held on to; rounding keeps them a little apart.

    Asked no later: a deep net with batch normalisation makes a difference in the last bit a thousand times larger
    with each step.
    """
    first, mine, other = (
        torch.cat([w.detach().flatten() for w in trainable(m).values()]) for m in (start, ours, theirs)
    )
    apart, moved = (mine - other).norm(), (other - first).norm()
    assert apart < 0.01 * moved, f"not the same work: {apart:.3g} apart after a way of {moved:.3g}"
