"""What a learner shows of itself to be put on trial: it learns and answers; all else it may decline."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from everlearn.conformance.nets import Net

T = TypeVar("T")

TRAITS = {
    "strength": "adds something to the loss that is multiplied by a strength",
    "budget": "keeps within a number of rows that is set for all experiences together",
    "restarts": "begins each experience with new weights, in the head at least",
    "grows": "keeps something of each experience, as its paper has it",
    "rests": "trains a part of the model, on a body that is in eval mode from the second experience on",
    "exact": "learns in closed form, with nothing that an order or a seed could change",
    "stores": "stores rows, and asks the model about them again",
    "replay": "stores rows, of which those of earlier experiences come back when the next one begins",
    "uniform": "keeps a uniform sample of the stream",
    "herding": "keeps the rows whose mean feature is nearest to that of their class",
    "projects": "corrects the gradient by that on old rows",
    "pull": "adds a penalty on leaving earlier weights",
    "path": "weighs that penalty by a path integral over training",
    "fisher": "weighs that penalty by the diagonal of the Fisher information",
    "sensitivity": "weighs that penalty by the gradients of the squared norm of the outputs",
    "estimated": "estimates importances from rows, at the end of an experience",
    "teacher": "distills: asks the model as it was after the last experience",
    "kl": "distills with a Kullback-Leibler divergence at temperature 2",
}
"""What may be said of a method; an adapter says it of each of its methods, and the checks choose by it."""


class NotOfferedError(Exception):
    """Raised by a verb that there is none of. Its message is the reason, and stands in the table."""


@dataclass(frozen=True)
class Setup:
    """What a learner on trial is made of."""

    model: Net
    """A model whose classification head is the linear layer `model.head`."""
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    epochs: int = 1
    batch_size: int = 8
    memory: int = 24
    """The rows that may be kept, in all."""
    draw: int = 8
    """Old rows in each step."""
    seed: int = 0
    growing: bool = False
    """Whether the head is to grow with the classes; it begins with two outputs."""
    strength: float | None = None
    """What the penalty is multiplied with; None for whatever suits."""
    damping: float = 0.1
    """The number that keeps the denominator of a path integral from 0."""
    lend: Callable[[Any], Any] = lambda given: given
    """Lists and dicts that an adapter hands over go through here: they are to come back as they were."""


class Subject(Protocol):
    """A learner on trial."""

    @property
    def model(self) -> nn.Module:
        """The model that is being trained."""
        ...

    def learn(self, x: Tensor, y: Tensor, *, steps: int | None = None) -> None:
        """Learns the next experience: rows (n, 17) and their classes (n,), in an order of its own.

        With `steps`, it leaves off after so many steps; called with the same rows again, it goes on.
        """
        ...

    def predict(self, x: Tensor) -> Tensor:
        """The logits, (n, classes)."""
        ...

    def evaluate(self, x: Tensor, y: Tensor) -> float:
        """The accuracy in [0, 1], found in the way that users find it."""
        ...

    def save(self) -> Any:
        """All that going on exactly needs."""
        ...

    def load(self, saved: Any) -> None:
        """Becomes what was saved, in a learner made alike."""
        ...


History = list[list[tuple[Tensor, Tensor]]]
"""By experience finished, by experience asked: the true classes of its test rows, and those answered."""


class Adapter(Protocol):
    """A library on trial."""

    @property
    def name(self) -> str:
        """What it is called in the table."""
        ...

    @property
    def methods(self) -> Mapping[str, frozenset[str]]:
        """Its methods by name, and which of the `TRAITS` each has."""
        ...

    def subject(self, method: str, setup: Setup) -> Subject:
        """A learner with that method."""
        ...

    def readings(self, history: History) -> Mapping[str, float]:
        """What it makes of a history, by the ids of the definitions in `everlearn.metrics.READINGS`."""
        ...
