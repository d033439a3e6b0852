"""Rows in RAM, as a loop by hand has them: what the model sees of them, and a memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
_SCALE = torch.tensor([1 / (255 * std) for std in STD]).view(3, 1, 1)
_SHIFT = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(3, 1, 1)


def as_stored(x: Tensor) -> Tensor:
    return x


def normalised(x: Tensor) -> Tensor:
    """Pixels of uint8 as the model sees them, (n, 3, h, w)."""
    return x.float().mul_(_SCALE).add_(_SHIFT)


def augmented(x: Tensor, random: torch.Generator, padding: int = 4) -> Tensor:
    """Normalised, after a flip of half of the images and a crop of each, at random."""
    flipped = (torch.rand(len(x), generator=random) < 0.5).nonzero().flatten()
    x = x.index_copy(0, flipped, x.index_select(0, flipped).flip(-1))
    count, channels, height, width = x.shape
    padded = F.pad(x, (padding,) * 4)
    row, plane, line, _ = padded.stride()
    places = padded.numel() - ((channels - 1) * plane + (height - 1) * line + width) + 1
    windows = padded.as_strided((places, channels, height, width), (1, plane, line, 1))
    down, right = torch.randint(2 * padding + 1, (2, count), generator=random)
    return normalised(windows.index_select(0, torch.arange(count) * row + down * line + right))


class Reservoir:
    """Vitter's reservoir, a whole batch at a time, in tensors that are allocated once."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity, self.seen = capacity, 0
        self.columns: list[Tensor] = []
        self.random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, *rows: Tensor) -> None:
        if not self.columns:
            self.columns = [column.new_empty((self.capacity, *column.shape[1:])) for column in rows]
        count = len(rows[0])
        if self.seen + count <= self.capacity:
            for held, new in zip(self.columns, rows, strict=True):
                held[self.seen : self.seen + count] = new
        else:
            place = torch.arange(self.seen, self.seen + count)
            drawn = torch.rand(count, generator=self.random, dtype=torch.float64).mul_(place + 1).long()
            slots = torch.where(place < self.capacity, place, drawn)
            kept = (slots < self.capacity).nonzero().flatten()
            slots = slots.index_select(0, kept)
            for held, new in zip(self.columns, rows, strict=True):
                held.index_copy_(0, slots, new.index_select(0, kept))
        self.seen += count

    def sample(self, count: int) -> list[Tensor]:
        index = torch.randint(len(self), (count,), generator=self.random)
        return [column.index_select(0, index) for column in self.columns]
