"""The protocol of online learning with several steps for each batch: it is learned a few times, and then gone."""

from dataclasses import dataclass

import torch

from everlearn.batch import Rows
from everlearn.bench.arrivals import arrive
from everlearn.bench.trained import Trained
from everlearn.data.order import epoch_order
from everlearn.data.rows import Subset
from everlearn.metrics.readings import average_accuracy
from everlearn.metrics.scores import Scores
from everlearn.streams.experience import Experience


@dataclass(frozen=True)
class Trickled(Trained):
    """As `Trained`, with each batch as an experience of its own: `epochs` are the steps that it is learned for."""

    def scored(self, method: str, seed: int, train: Rows, test: Rows) -> dict[str, float]:
        """The scores on any rows of ten classes, after the last batch."""
        stream = arrive(self.arrival, train, test, seed, domains=self.domains, rows=self.rows)
        learner, scores = self._learner(method, seed, stream), Scores()
        for each in stream:
            for part in torch.split(epoch_order(len(each.train), seed, each.index, 0), self.batch_size):
                rows = Subset(each.train, part)
                learner.learn(Experience(learner.experience, rows, each.test, each.classes, each.task))
        for each in stream:
            result = learner.evaluate(each.test, batch_size=2000)
            scores.add(result, after=len(stream) - 1, on=each.index, step=learner.number)
        return {"class-IL": 100 * average_accuracy(scores.matrix())}
