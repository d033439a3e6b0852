"""Freezing: the first experience trains all weights, later ones only what the head answers about new classes.

A bound, and no paper's: what can be had without moving the features at all.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from everlearn.batch import Batch
from everlearn.border import one_of
from everlearn.method import Card, Method
from everlearn.models.heads import head_weights
from everlearn.models.nets import MultiHead
from everlearn.models.resting import drop_gradients, resting
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Freeze(Method):
    """f(x) = W h(x) + b, where h learns in the first experience only, and is in eval mode from then on.

    With `learns="new"` a row of W and b learns in the first experience that has its class among its `classes`, and
    the head of a task in the first of that task; with "all" the whole head always learns; with "none" there are no
    more steps. What does not learn is held bit for bit, whatever the optimizer.
    """

    card: ClassVar[Card] = Card("bound", "none, and no backward pass through the body", "the head")

    learns: Literal["new", "all", "none"] = "new"
    head: str | None = None
    """The linear layer that answers; None for the last one. In a `MultiHead` it is the head of the task."""

    settled: bool = field(default=False, init=False)
    """Whether the first experience has ended."""
    known: list[int] = field(default_factory=list, init=False)
    """The classes that came before this experience, or the tasks, in a `MultiHead`."""
    names: list[str] = field(default_factory=list, init=False)
    """The weights that learn now."""
    held: Weights = field(default_factory=dict, init=False)
    kept: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False)
    """Their rows that do not learn, as numbers, and `held` has their values."""

    def __post_init__(self) -> None:
        one_of("learns", self.learns, ("new", "all", "none"))

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Finds what learns."""
        many = isinstance(bare(model), MultiHead)
        weights = head_weights(bare(model), f"heads.{experience.task or 0}" if many else self.head)
        new = set(self._met(model, experience)) - set(self.known)
        self.names = list(weights) if self.learns == "all" or (self.learns == "new" and new) else []
        self.held = {name: weights[name].detach().clone() for name in self.names}
        rows = next(iter(weights.values()))
        kept = [row for row in range(len(rows)) if self.learns == "new" and not many and row not in new]
        self.kept = torch.tensor(kept, dtype=torch.int64, device=rows.device)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Only what learns is in the graph."""
        if not self.settled:
            return rest(model, batch)
        with resting(model, but=self.names):
            output = rest(model, batch)
        return output if self.names else Output(None, output.logits)

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into what does not learn."""
        if self.settled:
            drop_gradients(model, but=self.names)
            for name in self.names:
                grad = bare(model).get_parameter(name).grad
                if grad is not None:
                    grad.index_fill_(0, self.kept, 0)

    def after_step(self, model: nn.Module) -> None:
        """Takes back what momentum, moments and decay moved."""
        for name in self.names if self.settled else ():
            bare(model).get_parameter(name).index_copy_(0, self.kept, self.held[name][self.kept])

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """From here on, the body rests."""
        self.settled, self.known = True, sorted({*self.known, *self._met(model, experience)})

    def _met(self, model: nn.Module, experience: Experience) -> tuple[int, ...]:
        return (experience.task or 0,) if isinstance(bare(model), MultiHead) else tuple(experience.classes)
