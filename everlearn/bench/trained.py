"""The usual protocol: a net learns a stream made of MNIST, and is asked about all of it in the end."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adam

from everlearn.batch import Rows
from everlearn.bench.arrivals import Arrival, arrive
from everlearn.bench.mnist import mnist
from everlearn.bench.nets import Weights, net
from everlearn.data.transforms import view
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.metrics.readings import average_accuracy, forgetting
from everlearn.metrics.scores import Scores
from everlearn.models.nets import MultiHead
from everlearn.objective import classify, classify_by_task
from everlearn.randomness import mix
from everlearn.streams.bounds import joint
from everlearn.streams.experience import Experience

Score = Literal["class-IL", "task-IL", "domain-IL", "forgetting"]
"""Accuracies in %, the mean over experiences; "task-IL" knows the task, and so its classes. Forgetting is in points."""


@dataclass(frozen=True)
class Trained:
    """MLPs on streams made of MNIST. Each random part has a seed of its own, so that rows compare in pairs."""

    source: str
    arrival: Arrival
    scores: tuple[Score, ...]
    hidden: tuple[int, ...]
    lr: float
    batch_size: int
    optimizer: Literal["sgd", "adam"] = "sgd"
    weights: Weights = "torch"
    normalize: Literal["unit", "mnist"] = "unit"
    epochs: int = 1
    steps: int = 0
    """Steps in each experience, in place of epochs; incomplete batches are left out then."""
    rows: int = 0
    """Training rows of each experience, drawn at random; 0 for all."""
    domains: int = 20
    """How many, where they are permuted or rotated."""
    joint: bool = False
    """Everything at once: the upper bound."""

    @property
    def chance(self) -> dict[str, float]:
        """One of ten digits, or one of the two of a task or domain."""
        two = {"task-IL", "domain-IL" if self.arrival == "split by domain" else ""}
        return {score: 50.0 if score in two else 10.0 for score in self.scores if score != "forgetting"}

    def data(self, folder: Path) -> str:
        """The digest of MNIST."""
        return mnist(folder).digest

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores on MNIST."""
        train, test, _ = mnist(folder)
        return self.scored(method, seed, train, test)

    def scored(self, method: str, seed: int, train: Rows, test: Rows) -> dict[str, float]:
        """The scores on any rows of ten classes, after the last experience."""
        stream = arrive(self.arrival, train, test, seed, domains=self.domains, rows=self.rows)
        arriving = joint(stream) if self.joint else stream
        learner, scores = self._learner(method, seed, arriving), Scores()
        for experience in arriving:
            for step in learner.steps(experience):
                if step.place == self.steps:
                    learner.stop()
            last = experience is arriving[-1]
            for each in stream:
                if last or ("forgetting" in self.scores and each.index <= experience.index):
                    result = learner.evaluate(each.test, batch_size=_ASKED)
                    after = len(stream) - 1 if last else experience.index
                    scores.add(result, after=after, on=each.index, step=learner.number)
        return {score: 100 * self._read(score, scores, learner, stream) for score in self.scores}

    def _read(self, score: Score, scores: Scores, learner: Learner, stream: list[Experience]) -> float:
        if score == "forgetting":
            return forgetting(scores.matrix())
        if score == "task-IL" and self.arrival != "split by task":  # one head, asked about one task at a time
            known = (learner.evaluate(e.test, among=torch.tensor(e.classes), batch_size=_ASKED).value for e in stream)
            return sum(known) / len(stream)
        return average_accuracy(scores.matrix())

    def _learner(self, method: str, seed: int, stream: list[Experience]) -> Learner:
        by_task, two = self.arrival == "split by task", self.arrival == "split by domain"
        model: nn.Module = net(stream[0].train, self.hidden, 2 if two else 10, seed=mix(seed, 3), weights=self.weights)
        if by_task:
            features = model.get_submodule("features")
            model = MultiHead(features, self.hidden[-1], outputs_per_task=2, tasks=5, seed=mix(seed, 5))
        fewest = min(len(experience.train) for experience in stream) // self.batch_size
        return Learner(
            model,
            build(method, seed=mix(seed, 4)),
            classify_by_task if by_task else classify,
            optimizer=partial(_OPTIMIZERS[self.optimizer], lr=self.lr),
            epochs=-(-self.steps // fewest) if self.steps else self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            view=view(self.normalize),
            drop_last=bool(self.steps),
        )


_ASKED = 2000
"""Test rows at a time."""
_OPTIMIZERS = {"sgd": SGD, "adam": Adam}
