"""Rows without labels, and models that normalise, for tests of adaptation at test time."""

from functools import partial

import torch
from methods.small import everything, norm_net, rows
from torch import nn

from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods import METHODS
from everlearn.streams import Experience

NAMES = ("adabn", "tent", "eata", "sar", "cotta")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(outputs=4):
    """Two batch norms, and dropout, for rows of 5 numbers."""
    return nn.Sequential(*norm_net(6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))


def layer_norms(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.LayerNorm(8),
        nn.ReLU(), nn.Linear(8, outputs),
    )  # fmt: skip


def noise(batch, key):
    """A view that augments by noise, a function of key and row."""
    if key is None:
        return batch
    draws = torch.randn(batch["x"].shape, generator=torch.Generator().manual_seed(key))
    return {**batch, "x": batch["x"] + 0.1 * draws}


def method(name, **options):
    """It, so that it learns on small nets that are sure of nothing: all rows are reliable."""
    given = {"eata": {"E0": 2.0, "eps": 3.0}, "sar": {"E0": 2.0}, "cotta": {"N": 2, "rst": 0.2, "ap": 1.0}}
    return METHODS[name](**given.get(name, {}) | options)


def learner(method, model=None, **options):
    settings = {"optimizer": SGD, "batch_size": 8, "epochs": 2, "view": noise} | options
    return Learner(model or batch_norms(), method, **settings)


def target(index=1, count=40, labels=False):
    """Rows far from those that were learned; none of them with a label, unless each has that of having none."""
    data = rows(count, seed=index)
    x = 2 * data.column("x") + 1
    given = Columns(x=x, y=torch.full((count,), UNLABELED)) if labels else Columns(x=x)
    return Experience(index, given, data, (0, 1, 2, 3))


def source(index=0, count=40):
    data = rows(count, seed=index)
    return Experience(index, data, data, (0, 1, 2, 3))


def questions(count=12):
    return {"x": everything(rows(count, seed=99))["x"]}


def told(subject, count=6, size=8, seed=1):
    """What `observe` says about batches of a stream."""
    x = everything(target(seed, count * size).train)["x"]
    return [subject.observe({"x": part}).logits for part in x.split(size)]
