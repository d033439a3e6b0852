"""Small models and rows whose every row can be told from every other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everlearn.models.heads import drawn
from everlearn.randomness import mix, seeded

WIDTH = 16
"""The numbers of a row that a model sees. The one before them is the row's own number, which it does not see."""


class Net(nn.Module):
    """A body and a head, for rows (n, 17): the first column says which row it is, and is passed over."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.body(x[:, 1:]))
        return logits


def plain(outputs: int = 6, *, seed: int = 0) -> Net:
    """Two layers, in which a row has nothing to do with any other."""
    with seeded(seed):
        return Net(nn.Sequential(nn.Linear(WIDTH, 12), nn.ReLU()), nn.Linear(12, outputs))


def normal(outputs: int = 6) -> Net:
    """Four layers with batch normalisation and dropout."""
    with seeded(0):
        body = nn.Sequential(
            *(nn.Linear(WIDTH, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU()),
        )
        return Net(body, nn.Linear(12, outputs))


def convolutional(outputs: int = 6) -> Net:
    """Two convolutions, in channels_last."""
    with seeded(0):
        body = nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)),
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten()),
        )
        net = Net(body, nn.Linear(4 * WIDTH, outputs))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


Rows = tuple[Tensor, Tensor]


def rows(count: int, classes: Sequence[int], *, first: int = 0) -> Rows:
    """`count` rows numbered from `first`, dealt out to the classes in turn: x (count, 17) in [0, 1], y (count,)."""
    y = torch.tensor(classes).repeat(count)[:count]
    centres = torch.cat([drawn(1, WIDTH, mix(2, label))[0] for label in classes]).repeat(count, 1)[:count]
    noise, _ = drawn(count, WIDTH, mix(1, first))
    number = torch.arange(first, first + count, dtype=torch.float32) / _MOST
    return torch.cat([number[:, None], (0.5 + 1.4 * centres + 0.5 * noise).clamp(0, 1)], 1), y


_MOST = 1 << 20
"""Numbers below this are exact in float32, also as a share of it."""


def stream(*groups: Sequence[int], count: int = 24) -> list[Rows]:
    """An experience of `count` rows for each group of classes; no two rows have one number."""
    return [rows(count, group, first=place * count) for place, group in enumerate(groups)]


def numbers(x: Tensor) -> list[int]:
    """Which rows these are."""
    return [round(number * _MOST) for number in x[:, 0].tolist()]


PAIRS = ((0, 1), (2, 3), (4, 5))
