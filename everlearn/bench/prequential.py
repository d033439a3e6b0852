"""First the question, then the lesson: logistic regression on a stream, whose right answers can be counted exactly.

The count depends on the order: predict with the scale as it was, update the scale, scale again, then learn.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from everlearn.learner import Learner
from everlearn.models.standardise import Standardise
from everlearn.online.encoding import Encoder
from everlearn.online.engine import Online
from everlearn.streams.feed import Record


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
        return hashlib.sha256(repr(_records(self.stream)).encode()).hexdigest()[:16]

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:  # noqa: ARG002 (nothing is random)
        """How many answers were right."""
        records = _records(self.stream)
        online = self.online(list(records[0].fields))
        right = 0
        for record in records:
            right += online.predict([record])[0].answer == record.label
            online.learn([record], [str(record.label)])
        return {"right": float(right)}

    def online(self, fields: list[str]) -> Online:
        """The learner. It begins at 0, in float64.

        Two outputs under a softmax, each of which moves at half the rate, are one under a sigmoid.
        """
        linear = nn.Linear(len(fields), 2).double()
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        learner = Learner(nn.Sequential(Standardise(len(fields)), linear), optimizer=self._optimizer)
        return Online(learner, Encoder(fields, ("False", "True"), dtype="float64"))

    def _optimizer(self, weights: list[nn.Parameter]) -> Optimizer:
        weight, bias = weights
        groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": self.intercept_lr / 2}]
        return SGD(groups, lr=self.lr / 2)


@cache
def _records(name: str) -> list[Record]:
    """The stream, in the order in which it comes."""
    try:
        from river import datasets  # noqa: PLC0415 (an optional dependency)
    except ImportError as error:
        raise ValueError("the data of this row comes with river: pip install 'everlearn[bench]'") from error
    rows = getattr(datasets, name)()
    return [Record(str(number), dict(x), str(bool(y))) for number, (x, y) in enumerate(rows)]
