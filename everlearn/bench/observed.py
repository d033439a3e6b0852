"""MNIST-360: a net that observes a stream without borders, and is asked about all digits at all angles in the end."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn
from torch.optim import SGD

from everlearn.batch import Rows
from everlearn.bench.mnist import mnist
from everlearn.bench.nets import net
from everlearn.data.transforms import view
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.randomness import mix
from everlearn.streams.mnist360 import DIGITS, mnist_360


@dataclass(frozen=True)
class Observed:
    """The net of Buzzega et al. on MNIST-360, with plain SGD; each batch is seen once."""

    source: str
    lr: float
    batch_size: int
    hidden: tuple[int, ...] = (100, 100)

    @property
    def chance(self) -> dict[str, float]:
        """One of nine digits."""
        return {"accuracy": 100 / DIGITS}

    def data(self, folder: Path) -> str:
        """The digest of MNIST."""
        return mnist(folder).digest

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The accuracy, in %, over all test rows, after the last batch."""
        train, test, _ = mnist(folder)
        return self.scored(method, seed, train, test)

    def scored(self, method: str, seed: int, train: Rows, test: Rows) -> dict[str, float]:
        """The accuracy on any rows of labelled images."""
        batches, asked = mnist_360(train, test, batch_size=self.batch_size, seed=mix(seed, 1))
        model: nn.Module = net(train, self.hidden, 10, seed=mix(seed, 3), weights="xavier")
        learner = Learner(
            model,
            build(method, seed=mix(seed, 4)),
            optimizer=partial(SGD, lr=self.lr),
            seed=seed,
            view=view(),
        )
        for batch in batches:
            learner.observe(batch)
        return {"accuracy": 100 * learner.evaluate(asked, batch_size=2000).value}
