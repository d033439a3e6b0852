"""Digits of 8x8 pixels in the place of MNIST, and a protocol that costs nothing."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits

from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.data import Columns


@cache
def digits():
    """1,400 training and 397 test rows: x uint8 (1, 8, 8), y int64."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.images[order] * 15.9).to(torch.uint8)[:, None]
    y = torch.tensor(data.target[order])
    return Columns(x=x[:1400], y=y[:1400]), Columns(x=x[1400:], y=y[1400:])


@dataclass(frozen=True)
class Made:
    """Scores 90 and the seed; fails with the seeds in `broken`, and is interrupted at the seed `interrupted`."""

    source: str = "a paper"
    score: float = 90.0
    broken: tuple[int, ...] = ()
    interrupted: int = -1

    @property
    def chance(self):
        return {"accuracy": 10.0}

    def data(self, folder):
        if not folder.exists():
            raise ValueError(f"there is no {folder}")
        return "the data"

    def measure(self, method, seed, folder):
        with (folder / "measured").open("a") as file:
            file.write(f"{seed} ")
        if seed in self.broken:
            raise ValueError(f"seed {seed} went wrong")
        if seed == self.interrupted:
            raise KeyboardInterrupt
        return {"accuracy": self.score + seed}


THEIRS = Published(91.0, 1.0, 10)


def row(name="made", *, theirs=THEIRS, seeds=3, **options):
    """A row of that protocol."""
    return Row(name, Made(**options), "naive", {} if theirs is None else {"accuracy": theirs}, seeds)


def measured(folder):
    """The seeds that were really run."""
    path = folder / "measured"
    return [int(seed) for seed in path.read_text().split()] if path.exists() else []
