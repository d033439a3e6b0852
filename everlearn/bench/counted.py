"""Heads in closed form: raw pixels for features, pairs of digits one after another, nothing trained by gradients."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn
from torch.optim import SGD

from everlearn.batch import Rows
from everlearn.bench.arrivals import arrive
from everlearn.bench.mnist import mnist
from everlearn.data.transforms import view
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.metrics.evaluate import evaluate
from everlearn.randomness import mix
from everlearn.streams.bounds import joint


@dataclass(frozen=True)
class Counted:
    """Split MNIST, pixels in [0, 1]; each row is counted once."""

    source: str

    @property
    def chance(self) -> dict[str, float]:
        """One of ten digits."""
        return {"accuracy": 10.0}

    def data(self, folder: Path) -> str:
        """The digest of MNIST."""
        return mnist(folder).digest

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The accuracy, in %, over all test rows, after the last pair."""
        train, test, _ = mnist(folder)
        return self.scored(method, seed, train, test)

    def scored(self, method: str, seed: int, train: Rows, test: Rows) -> dict[str, float]:
        """The accuracy on any rows of ten classes."""
        stream = arrive("split", train, test, seed, domains=0)
        learner = Learner(
            nn.Flatten(), build(method, seed=mix(seed, 4)), optimizer=partial(SGD, lr=0.0), batch_size=2000, seed=seed,
            view=view(),
        )  # fmt: skip
        for experience in stream:
            learner.remember(experience)
        return {"accuracy": 100 * evaluate(learner.predict, joint(stream)[0].test, batch_size=2000).value}
