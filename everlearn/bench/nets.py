"""The nets of published protocols: layers of ReLU units, and how their weights begin."""

from typing import Literal

import torch
from torch import nn

from everlearn.batch import Rows, tensor
from everlearn.models.nets import MLP, Classifier
from everlearn.randomness import seeded

Weights = Literal["torch", "xavier"]
"""As torch draws them, or Xavier uniform with biases 0."""
Convolutions = Literal["lenet", "dann"]
"""LeNet with a bottleneck, as in TLlib, or the net of Ganin et al. for MNIST-M; both for images of 28 x 28 pixels."""


def net(rows: Rows, hidden: tuple[int, ...], outputs: int, *, seed: int, weights: Weights) -> MLP:
    """A net for such rows, whose weights are drawn from `seed` alone."""
    inputs = tensor(rows.take(torch.zeros(1, dtype=torch.int64)), "x").numel()
    with seeded(seed):
        made = MLP(inputs, hidden, outputs)
        if weights == "xavier":
            for layer in made.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
    return made


def convolutional(kind: Convolutions, channels: int, outputs: int, *, seed: int) -> Classifier:
    """A net of two convolutions, whose weights are drawn from `seed` alone."""
    with seeded(seed):
        if kind == "lenet":
            layers: list[nn.Module] = [
                *(nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
                *(nn.Conv2d(20, 50, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
                *(nn.Linear(50 * 4 * 4, 500), nn.ReLU(), nn.Dropout(0.5)),
                *(nn.Linear(500, 256), nn.BatchNorm1d(256), nn.ReLU()),
            ]
            return Classifier(nn.Sequential(*layers), 256, outputs)
        layers = [
            *(nn.Conv2d(channels, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 48, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(48 * 4 * 4, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()),
        ]
        return Classifier(nn.Sequential(*layers), 100, outputs)
