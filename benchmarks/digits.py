"""How much each method remembers of five pairs of digits: the numbers that the pages of the methods quote.

    python benchmarks/digits.py

scikit-learn's 1,797 digits arrive as (0, 1), (2, 3), ... (8, 9). One net, 64-128-64, learns them twice: with one
head of ten outputs and no hint (class-incremental), and with a head of two outputs for each pair and the pair named
(task-incremental). Fixed for all methods: SGD with momentum 0.9 and learning rate 0.02, batches of 16, 10 epochs,
the split into 1,400 training and 397 test rows; where rows are kept, 200 of them, 16 a step.

The strength of each method is the best of a grid on the first two pairs only: trained on four fifths of their
training rows, measured on the others, with three seeds that the table does not use. No test row is looked at.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from everlearn import Chain, Experience, Learner, Memory, Method, classify, classify_by_task
from everlearn.border import NonFinite
from everlearn.data import Columns, Subset
from everlearn.methods import DER, EWC, SI, DERpp, LwF, Naive, Replay
from everlearn.metrics import NotMeasuredError, Scores, average_accuracy, forgetting
from everlearn.models import MLP, MultiHead
from everlearn.streams import by_class, by_task, cumulative, joint

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
KEPT, DRAWN = 200, 16
SEEDS, CHOICE = range(5), range(100, 103)


def replay(seed: int) -> Replay:
    return Replay(Memory(KEPT, seed), count=DRAWN)


@dataclass(frozen=True)
class Contender:
    """A method by its strength and a seed, the strengths to choose from, and which rows it may see."""

    make: Callable[[float, int], Method]
    grid: tuple[float, ...] = ()
    bound: Callable[[list[Experience]], list[Experience]] = list
    """The stream itself, or what it would be if the past were still there."""


CONTENDERS = {
    "naive": Contender(lambda _, __: Naive()),
    "ewc": Contender(lambda strength, _: EWC(strength), (1, 10, 100, 1000)),
    "ewc-online": Contender(lambda strength, _: EWC(strength, mode="online", gamma=0.9), (1, 10, 100, 1000)),
    "si": Contender(lambda strength, _: SI(strength), (0.1, 1, 10, 100)),
    "lwf": Contender(lambda strength, _: LwF(strength), (0.3, 1, 3, 10)),
    "er": Contender(lambda _, seed: replay(seed)),
    "der": Contender(lambda strength, seed: DER(Memory(KEPT, seed), strength, DRAWN), (0.03, 0.1, 0.3, 1)),
    "derpp": Contender(lambda strength, seed: DERpp(Memory(KEPT, seed), strength, 0.5, DRAWN), (0.03, 0.1, 0.3, 1)),
    "er+ewc": Contender(lambda strength, seed: Chain(replay(seed), EWC(strength)), (0.1, 1, 10, 100)),
    "er+lwf": Contender(lambda strength, seed: Chain(replay(seed), LwF(strength)), (0.1, 0.3, 1, 3)),
    "cumulative": Contender(lambda _, __: Naive(), bound=cumulative),
    "joint": Contender(lambda _, __: Naive(), bound=joint),
}
SETTINGS = ("class-incremental", "task-incremental")


@cache
def digits() -> tuple[Columns, Columns]:
    """1,400 training and 397 test rows: x float32 (64,), y int64."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    return Columns(x=x[:1400], y=y[:1400]), Columns(x=x[1400:], y=y[1400:])


def stream(setting: str, *, choosing: bool) -> list[Experience]:
    """All five pairs; or the first two, with a fifth of their training rows in the place of the test."""
    train, test = digits()
    pairs = PAIRS
    if choosing:
        pairs, fifth = PAIRS[:2], torch.arange(1400) % 5 == 0
        train, test = Subset(train, (~fifth).nonzero().flatten()), Subset(train, fifth.nonzero().flatten())
    return (by_class if setting == "class-incremental" else by_task)(train, test, pairs)


def learned(setting: str, name: str, strength: float, seed: int, *, choosing: bool = False) -> tuple[float, float]:
    """The average accuracy and the forgetting (NaN for a single experience) of one run."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    contender, pairs = CONTENDERS[name], stream(setting, choosing=choosing)
    if setting == "class-incremental":
        model, objective = MLP(64, (128, 64), 10), classify
    else:
        model, objective = MultiHead(MLP(64, (128,), 64), 64, 2, tasks=5, seed=seed), classify_by_task
    method = contender.make(strength, seed)
    optimizer = partial(torch.optim.Adam, lr=0.002)
    learner = Learner(model, method, objective, optimizer=optimizer, epochs=10, batch_size=16, seed=seed)
    scores = Scores()
    try:
        for experience in contender.bound(pairs):
            learner.learn(experience)
            for on, pair in enumerate(pairs):
                scores.add(learner.evaluate(pair.test), after=experience.index, on=on, step=learner.number)
    except NonFinite:  # a strength that the learning rate cannot follow
        return 0.0, 1.0
    if contender.bound is joint:  # one experience, which is asked about all pairs
        return statistics.mean(score.value for score in scores), float("nan")
    return average_accuracy(scores.matrix()), forgetting(scores.matrix())


def choose(setting: str, name: str, workers: multiprocessing.pool.Pool) -> float:
    """The strength with the best average accuracy on held-out rows of the first two pairs."""
    grid = CONTENDERS[name].grid
    jobs = [(setting, name, strength, seed) for strength in grid for seed in CHOICE]
    found = workers.starmap(partial(learned, choosing=True), jobs)
    mean = {strength: statistics.mean(a for (_, _, s, _), (a, _) in zip(jobs, found) if s == strength) for strength in grid}
    return max(grid, key=mean.__getitem__) if grid else 0.0
