"""Batches in which some rows have a label and others have none."""

from functools import partial

import torch
from methods.small import net, rows

from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods.aligned import Side
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def side(count, width=6, classes=4, seed=0, shift=0.0):
    """Features and logits that require a gradient, and labels."""
    random = torch.Generator().manual_seed(seed)
    features = (torch.randn(count, width, generator=random) + shift).requires_grad_()
    logits = (3 * torch.randn(count, classes, generator=random)).requires_grad_()
    return Side(features, logits, torch.randint(classes, (count,), generator=random))


def batch(labelled=5, unlabelled=8, seed=0, order=None):
    """Rows of 5 numbers; those without a label come first, unless `order` says otherwise."""
    x = torch.randn(labelled + unlabelled, 5, generator=torch.Generator().manual_seed(seed))
    y = torch.cat([torch.full((unlabelled,), UNLABELED), torch.arange(labelled) % 4])
    order = torch.arange(len(x)) if order is None else order
    return {"x": x[order], "y": y[order], "id": torch.arange(len(x))[order]}


def adaptation(index=0, count=20, beside=30):
    """Unlabelled rows beside a labelled reference."""
    data = Columns(x=rows(count, seed=index + 7).column("x") + 0.5)
    return Experience(index, data, data, (0, 1, 2, 3), reference=rows(beside, seed=index))


def learner(method, **options):
    """Batches of 7 unlabelled rows beside 4 labelled ones."""
    settings = {"optimizer": SGD, "epochs": 2, "batch_size": 7, "reference_size": 4}
    return Learner(net(), method, **settings | options)
