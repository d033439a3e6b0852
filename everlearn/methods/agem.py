"""Averaged gradient episodic memory: no step may raise the loss of old rows.

Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019. arXiv:1812.00420
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length, move
from everlearn.data.order import batches, epoch_order
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.models.gradients import awaken, gradients_at, inner, wide
from everlearn.models.views import average, bare, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class AGEM(Method):
    """g <- g - min(0, g . r) / (r . r) * r, with r the gradient of the loss of `count` random old rows.

    Old are the rows of experiences that have ended, as in the paper: only then do they enter the memory. In a
    stream without borders they do so after each batch. Only plain SGD takes exactly this step: momentum adds
    earlier ones, and Adam rescales it. Departures: r is taken in eval mode, as an estimate, so that buffers and
    generators stay as they are; which rows are kept is decided by the memory, not by a ring for each class.
    """

    card: ClassVar[Card] = Card("gradient", "1 forward, 1 backward over old rows", "rows", ("plain SGD",))

    memory: Memory
    count: int = 256
    """Old rows in each draw."""
    rows: int | None = None
    """Rows of each experience that are offered to the memory, at random; None for all."""

    reference: list[Tensor] | None = field(default=None, init=False)
    """r, from `loss` to `before_step`. A step in pieces has one, as all of them see the same weights."""
    inside: bool = field(default=False, init=False)
    """Whether an experience has begun and not ended."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """From here to the end, no row enters the memory."""
        self.inside, self.reference = True, None

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Takes the gradient on old rows."""
        output = rest(model, batch)
        if self.reference is None and output.loss is not None and output.loss.requires_grad:
            old = self.memory.sample(self.count)
            self.reference = gradients_at(model, old, objective) if old else None
        if not self.inside:
            self.memory.add(batch)
        return output

    def before_step(self, model: nn.Module) -> None:
        """Takes out of the gradient what points against that of old rows."""
        if self.count == 0:
            return
        weights, reference = list(trainable(model).values()), self.reference
        if reference is None:  # here: another process may have one
            reference = [torch.zeros_like(wide(weight)) for weight in weights]
        average(reference)
        gradient = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        product = inner(gradient, reference)
        share = torch.where(product < 0, product / inner(reference, reference), 0)  # undecided here: to look is to wait
        torch._foreach_mul_(reference, share)
        torch._foreach_sub_(gradient, reference)
        awaken(weights, gradient)
        self.reference = None

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Offers the rows of the experience to the memory."""
        self.inside = False
        keep(self.memory, model, experience, self.rows)


def keep(memory: Memory, model: nn.Module, experience: Experience, rows: int | None, /, **columns: int) -> None:
    """Offers random `rows` of `experience`, on the device of `model`, with more `columns`, each of one value.

    Every process offers the same: their memories, and what is estimated from these, stay equal.
    """
    device = next(bare(model).parameters()).device
    order = epoch_order(len(experience.train), memory.seed, experience.index, 0)[:rows]
    for batch in batches(experience.train, order, 1024, first_id=experience.index << 40):  # the learner's ids
        more: Batch = {name: torch.full((length(batch),), value) for name, value in columns.items()}
        memory.add(move(batch | more, device))
