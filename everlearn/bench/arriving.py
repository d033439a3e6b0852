"""CIFAR-100 in ten arrivals to a base that knows ImageNet: on its features, on adapted ones, or tuned on and on."""

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from everlearn.batch import Rows
from everlearn.bench.domains import PHOTOGRAPHS, photographs
from everlearn.bench.tuned import IMAGENET, falling, mobilenet
from everlearn.data.hashing import row_ids
from everlearn.data.rows import Columns, Subset
from everlearn.data.transforms import View
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.methods.composition import build
from everlearn.metrics.readings import average_accuracy, forgetting
from everlearn.metrics.scores import Scores
from everlearn.models.body import frozen
from everlearn.randomness import mix, unmoved
from everlearn.streams.arrivals import by_class
from everlearn.streams.experience import Experience
from everlearn.transfer.bases import Base

ARRIVALS = 10
Body = Literal["frozen", "adapted", "tuned"]
"""As it came; tuned to the first arrival, and frozen then; or tuned by each arrival."""
HEADS = {"ncm": "ncm", "slda": "slda:eps=1e-2", "ranpac": "ranpac:M=2000"}


@dataclass(frozen=True)
class Arriving:
    """MobileNetV2 on CIFAR-100, enlarged, 100 training rows a class, ten new classes at a time in an order by seed.

    A body that is tuned, by each arrival or the first, is so by the row's method; over one that is not, or no more, all
    `HEADS` learn, with scores of their own.

    "accuracy" is over all classes after the last arrival, in %, "anytime" the mean of that over all classes so far
    after each arrival, and "forgetting" in points.
    """

    source: str
    body: Body
    side: int = 64
    epochs: int = 3
    lr: float = 0.003
    batch_size: int = 32
    device: str = "cpu"

    @property
    def chance(self) -> dict[str, float]:
        """One of a hundred."""
        return (
            {"accuracy": 1.0} if self.body == "tuned" else dict.fromkeys((f"{name}, accuracy" for name in HEADS), 1.0)
        )

    def data(self, folder: Path) -> str:
        """The digest of the photographs and of the weights."""
        files = [folder / "cifar100" / name for name in PHOTOGRAPHS.values()] + [folder / IMAGENET]
        for file in files:
            if not file.is_file():
                raise ValueError(f"there is no {file.name} in {file.parent}; it is a part of the data of this row")
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores on CIFAR-100."""
        train, test = cifar100(folder)
        return self.scored(method, seed, train, test, mobilenet(folder, seed, side=self.side))

    def scored(self, method: str, seed: int, train: Rows, test: Rows, base: Base) -> dict[str, float]:
        """The scores of any base on any small photographs, in ten arrivals."""
        order = torch.randperm(classes := _classes(train), generator=torch.Generator().manual_seed(mix(seed, 1)))
        stream = by_class(train, test, [tuple(part.tolist()) for part in order.chunk(ARRIVALS)])
        with unmoved(torch.device(self.device)):
            torch.manual_seed(mix(seed, 5))  # what dropout draws from
            base.replace_head([str(label) for label in range(classes)], seed=mix(seed, 2))
            view = base.view()
            if self.body == "tuned":
                return self._through(self._learner(build(method, seed=mix(seed, 4)), base.module, view, seed), stream)
            if self.body == "adapted":
                self._learner(build(method), base.module, view, seed).learn(stream[0])
            base.module.to(self.device)
            seen = list(frozen(stream, base.module, head=base.head, view=view, batch_size=128))
        found: dict[str, float] = {}
        for name, text in HEADS.items():  # all heads read the same features
            head = Learner(nn.Identity(), build(text, seed=mix(seed, 4)), optimizer=partial(SGD, lr=1.0), seed=seed)
            found |= {f"{name}, {score}": value for score, value in self._through(head, seen).items()}
        return found

    def _learner(self, method: Method, model: nn.Module, view: View, seed: int) -> Learner:
        return Learner(
            model,
            method,
            optimizer=partial(SGD, lr=self.lr, momentum=0.9),
            scheduler=falling,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            view=view,
            device=self.device,
        )

    def _through(self, learner: Learner, stream: list[Experience]) -> dict[str, float]:
        scores, anytime = Scores(), []
        for experience in stream:
            learner.learn(experience)
            known = stream[: experience.index + 1]
            for each in known:
                scores.add(learner.evaluate(each.test, batch_size=200), after=experience.index, on=each.index, step=0)
            anytime.append(average_accuracy(scores.matrix()))
        matrix = scores.matrix()
        values = {"accuracy": anytime[-1], "anytime": sum(anytime) / len(anytime), "forgetting": forgetting(matrix)}
        return {name: 100 * value for name, value in values.items()}


@cache
def cifar100(folder: Path) -> tuple[Rows, Rows]:
    """The first 10,000 training rows and the first 5,000 test rows: 100 and 50 of each class."""
    train, test = (_split(folder / "cifar100" / name, split) for split, name in PHOTOGRAPHS.items())
    return train, Subset(test, torch.arange(5000))


def _split(archive: Path, split: str) -> Rows:
    x = photographs(archive)
    with np.load(archive, allow_pickle=False) as found:
        labels = torch.from_numpy(found["y"].astype(np.int64))
    return Columns(x=x, y=labels, id=row_ids(f"cifar100/{split}", len(labels)))


def _classes(rows: Rows) -> int:
    return int(torch.as_tensor(rows.column("y")).max()) + 1
