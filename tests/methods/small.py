"""Small models and experiences for the tests of single methods."""

import torch
from torch import nn

from everlearn.data import Columns
from everlearn.streams import Experience


def net(outputs=4, *, dropout=0.0):
    """Two layers for rows of 5 numbers, the same at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, outputs))


def norm_net(outputs=4):
    """A convolution with batch normalisation and dropout, for rows of 5 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 3, 3),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(9, outputs),
    )


def rows(count=20, seed=0, classes=4):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=random)
    return Columns(x=x, y=torch.randint(classes, (count,), generator=random))


def experience(index=0, count=20, classes=(0, 1, 2, 3)):
    data = rows(count, seed=index, classes=len(classes))
    return Experience(index, data, data, tuple(classes))


def everything(part):
    return part.take(torch.arange(len(part)))


def shake(model, seed=0, size=0.3):
    """Moves all weights, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=random), alpha=size)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}
