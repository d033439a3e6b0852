"""Gradient episodic memory: no step may raise the loss of the old rows of any experience.

Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017. arXiv:1706.08840
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.methods.agem import keep
from everlearn.models.gradients import agreeing, get_gradient, gradient_at, set_gradient
from everlearn.models.views import average, total
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class GEM(Method):
    """g <- g + G^T v if any G g < 0, where v minimises 1/2 v^T (G G^T + 1e-3 I) v + (G g)^T v subject to v >= gamma.

    The rows of G are the gradients of the loss of all kept rows of each experience that has ended. At `gamma` = 0
    this is the nearest g with G g >= 0. Only plain SGD takes exactly this step. Departures: G is taken in eval mode;
    the experiences share one memory, in place of a budget for each; of more than `constraints` experiences, each
    step draws so many (with 1, this is the S-GEM of arXiv:1812.00420).
    """

    card: ClassVar[Card] = Card(
        "gradient", "1 forward, 1 backward over all old rows", "rows; in a step, a gradient for each experience",
        ("plain SGD",),
    )  # fmt: skip

    memory: Memory
    gamma: float = 0.5
    """The least weight of each old gradient in a step that is changed: with more, old loss is lowered as well."""
    constraints: int = 20
    """Experiences that each step is held to, at most."""
    rows: int | None = None
    """Rows of each experience that are offered to the memory, at random; None for all."""

    references: Tensor | None = field(default=None, init=False)
    """G, (constraints, weights), from `loss` to `before_step`."""
    steps: int = field(default=0, init=False)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Drops what a refused step may have left: the head may be larger now."""
        self.references = None

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Takes the gradients on old rows."""
        output = rest(model, batch)
        if self.references is None and output.loss is not None and output.loss.requires_grad and (held := self._held()):
            rows = [{n: c for n, c in self.memory.take(slots).items() if n != "experience"} for slots in held]
            self.references = torch.stack([gradient_at(model, old, objective) for old in rows])
        return output

    def before_step(self, model: nn.Module) -> None:
        """Turns the gradient by as little as makes it agree with those on old rows."""
        if count := len(self._held()):
            gradient, references = get_gradient(model), self.references
            those = total(int(references is not None), gradient.device)
            if references is None:  # no share of this batch; where another process has one, it has the same rows
                references = gradient.new_zeros(count, len(gradient))
            average([references], 1 / max(1, those))
            set_gradient(model, agreeing(gradient, references, self.gamma))
        self.references = None
        self.steps += 1

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Offers the rows of the experience to the memory."""
        keep(self.memory, model, experience, self.rows, experience=experience.index)

    def _held(self) -> list[Tensor]:
        """The slots of each experience that this step is held to; the same in all processes."""
        if not len(self.memory):
            return []
        of = torch.as_tensor(self.memory.column("experience")).cpu()
        there = torch.unique(of)
        if len(there) > self.constraints:
            random = torch.Generator().manual_seed(mix(self.memory.seed, self.steps))
            there = there[torch.randperm(len(there), generator=random)[: self.constraints]]
        return [(of == one).nonzero().flatten() for one in there]
