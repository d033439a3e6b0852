"""Gradual unfreezing: the head learns first, then block after block wakes up, down to the input.

Howard & Ruder, Universal Language Model Fine-tuning for Text Classification (ULMFiT), ACL 2018. arXiv:1801.06146
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch
from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.paced import Paced
from everlearn.models.blocks import named_groups, runs
from everlearn.models.scope import beside, holding, still
from everlearn.models.views import bare, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Thaw(Paced):
    """Of n groups of weights, group k = 0 ... n - 1 learns once progress t >= until * k / n.

    Group 0 is the head, the others are as many runs of the blocks before it, the last blocks first. What does not
    learn yet has no gradient, and rests in eval mode. All weights are in the optimizer from the start, so whatever its
    schedule is goes on. Departures: by progress, and anew in each experience; the paper wakes one group an epoch, and
    has rates that differ by group (`everlearn.transfer.rates`).
    """

    card: ClassVar[Card] = Card("tuning", "none, and no backward pass through what rests", "nothing")

    stages: int = 4
    """n; a model of fewer blocks has fewer."""
    until: float = 1.0
    """The progress that is shared out among the groups; 0 is fine-tuning."""
    groups: str | None = None
    """Groups by name in place of runs: `head/layer4@0.2/layer3@0.5`, where @ is a start; "head" is the head, * any,
    and what is not named is one more group."""
    head: str | None = None
    """The linear layer that answers; None for the last one."""

    waves: list[list[str]] = field(default_factory=list, init=False)
    """The weights of each group, by name."""
    starts: list[float] = field(default_factory=list, init=False)
    awake: list[bool] = field(default_factory=list, init=False)
    """Which groups learn now."""
    resting: list[str] = field(default_factory=list, init=False)
    """The modules in eval mode now."""

    def __post_init__(self) -> None:
        positive(stages=self.stages)
        if not 0 <= self.until <= 1:
            raise ValueError(f"until is a progress, from 0 to 1, but is {self.until}")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Finds the groups."""
        super().begin(model, experience, objective)
        if self.groups:
            found = named_groups(model, self.groups, self.head)
        else:
            found = [(None, names) for names in runs(model, self.stages, self.head)]
        learning, taken = trainable(model), set[str]()
        kept: list[tuple[float | None, list[str]]] = []
        for start, names in found:
            kept.append((start, [name for name in names if name in learning and name not in taken]))
            taken.update(names)
        kept.append((None, [name for name in learning if name not in taken]))
        kept = [(start, names) for start, names in kept if names]
        self.waves = [names for _, names in kept]
        self.starts = [self.until * k / len(kept) if start is None else start for k, (start, _) in enumerate(kept)]
        if self.starts and min(self.starts) > 0:
            raise ValueError(f"no group learns from the start, as they start at {self.starts}; let one have @0")
        self.awake = []

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Only the groups that are awake are in the graph."""
        if not torch.is_grad_enabled():
            return rest(model, batch)
        awake = [start <= self.progress for start in self.starts]
        if awake != self.awake:
            self.awake = awake
            self.resting = beside(model, {*self._asleep(), *still(model)})
        with holding(model, self._asleep(), self.resting):
            return rest(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into what rests, from outside of `loss` either."""
        for name in self._asleep():
            bare(model).get_parameter(name).grad = None

    def _asleep(self) -> list[str]:
        return [name for wave, awake in zip(self.waves, self.awake, strict=False) if not awake for name in wave]
