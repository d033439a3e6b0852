"""First the question, then the lesson: logistic regression on a stream, whose right answers can be counted exactly.

The count depends on the order: predict with the scale as it was, update the scale, scale again, then learn.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from everlearn.batch import Batch, tensor
from everlearn.learner import Learner
from everlearn.methods.naive import Naive
from everlearn.objective import Output


@dataclass(frozen=True)
class Prequential:
    """Standardised logistic regression, learned row by row with SGD: the baseline of river's documentation."""

    source: str
    stream: str
    """The name of a data set in `river.datasets`, with labels of two kinds."""
    lr: float = 0.005
    intercept_lr: float = 0.01

    @property
    def chance(self) -> dict[str, float]:
        """Counts are exact; guessing is no reference for them."""
        return {}

    def data(self, folder: Path) -> str:  # noqa: ARG002 (river brings its data along)
        """The digest of the stream."""
        digest = hashlib.sha256()
        for column in _rows(self.stream):
            digest.update(column.numpy().tobytes())
        return digest.hexdigest()[:16]

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:  # noqa: ARG002 (nothing is random)
        """How many answers were right."""
        x, y = _rows(self.stream)
        learner = Learner(Logistic(x.shape[1]), Naive(), logistic, optimizer=self._optimizer)
        right = 0
        for i in range(len(y)):
            right += int((learner.predict({"x": x[i : i + 1]})[0] > 0) == (y[i] > 0))
            learner.observe({"x": x[i : i + 1], "y": y[i : i + 1]})
        return {"right": float(right)}

    def _optimizer(self, weights: list[nn.Parameter]) -> Optimizer:
        weight, bias = weights
        groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": self.intercept_lr}]
        return SGD(groups, lr=self.lr)


class Logistic(nn.Module):
    """Logistic regression in float64 that begins at 0, on inputs scaled by the mean and variance seen so far.

    In train mode the rows of the batch count for the scale before they are scaled; in eval mode nothing changes.
    """

    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The log-odds, (rows,)."""
        if self.training:
            for row in x:  # Welford's recurrence
                self.count += 1
                away = row - self.mean
                self.mean += away / self.count
                self.squares += away * (row - self.mean)
        spread = (self.squares / self.count.clamp(min=1)).sqrt()
        scaled = torch.where(spread > 0, (x - self.mean) / spread, 0.0)
        return scaled @ self.weight + self.bias


def logistic(model: Callable[..., Tensor], batch: Batch) -> Output:
    """The mean of log(1 + exp(-f(x))) for rows with y = 1, and of log(1 + exp(f(x))) for those with y = 0."""
    odds = model(tensor(batch, "x"))
    return Output(F.binary_cross_entropy_with_logits(odds, tensor(batch, "y")) if "y" in batch else None, odds)


@cache
def _rows(name: str) -> tuple[Tensor, Tensor]:
    """The stream as x (n, d) and y (n,), both float64, in the order in which it comes."""
    try:
        from river import datasets  # noqa: PLC0415 (an optional dependency)
    except ImportError as error:
        raise ValueError("the data of this row comes with river: pip install 'everlearn[bench]'") from error
    rows = list(getattr(datasets, name)())
    x = torch.tensor([list(row.values()) for row, _ in rows], dtype=torch.float64)
    return x, torch.tensor([float(label) for _, label in rows], dtype=torch.float64)
