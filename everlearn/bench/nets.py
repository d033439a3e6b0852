"""The nets of published protocols: layers of ReLU units, and how their weights begin."""

from typing import Literal

import torch
from torch import nn

from everlearn.batch import Rows, tensor
from everlearn.models.nets import MLP
from everlearn.randomness import seeded

Weights = Literal["torch", "xavier"]
"""As torch draws them, or Xavier uniform with biases 0."""


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
