"""The loops that a good engineer would write by hand, in plain PyTorch: what ours are measured against.

Nothing here is checked, saved, resumed or composed, and nothing is more than the method needs: tensors in
RAM, one gather a batch, one forward pass over joined rows, no autograd graph for a quadratic, no `.item()`.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

See = Callable[[Tensor], Tensor]
"""What the model is given for rows as they are stored."""


class Reservoir:
    """Vitter's reservoir, a whole batch at a time, in tensors that are allocated once."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity, self.seen = capacity, 0
        self.columns: list[Tensor] = []
        self.random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, *rows: Tensor) -> None:
        if not self.columns:
            self.columns = [column.new_empty((self.capacity, *column.shape[1:])) for column in rows]
        count = len(rows[0])
        if self.seen + count <= self.capacity:
            for held, new in zip(self.columns, rows, strict=True):
                held[self.seen : self.seen + count] = new
        else:
            last = torch.arange(self.seen + 1, self.seen + count + 1, dtype=torch.float64)
            slots = (torch.rand(count, generator=self.random, dtype=torch.float64) * last).long()
            # Rows that come before the memory is full take the next slot.
            slots = torch.where(last <= self.capacity, last.long() - 1, slots)
            kept = (slots < self.capacity).nonzero().flatten()
            slots = slots[kept]
            for held, new in zip(self.columns, rows, strict=True):
                held.index_copy_(0, slots, new.index_select(0, kept))
        self.seen += count

    def sample(self, count: int) -> list[Tensor]:
        index = torch.randint(len(self), (count,), generator=self.random)
        return [column.index_select(0, index) for column in self.columns]


@dataclass
class Loop:
    """What all loops share. `learn` learns one experience; `end` is called, off the clock, after it."""

    model: nn.Module
    optimizer: Optimizer
    see: See
    size: int
    count: int = 0
    """Old rows in each draw."""
    memory: Reservoir = field(default_factory=lambda: Reservoir(2000))

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        raise NotImplementedError

    def end(self, importance: list[Tensor], classes: int) -> None:
        """The Fisher information of the experience, and the number of classes seen so far."""


class Naive(Loop):
    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        for index in order.split(self.size):
            loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


class Replay(Loop):
    """One forward pass over the batch and the old rows."""

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        for index in order.split(self.size):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            all_x, all_y = new_x, new_y
            if len(self.memory):
                old_x, old_y = self.memory.sample(self.count)
                all_x, all_y = torch.cat([new_x, old_x]), torch.cat([new_y, old_y])
            loss = F.cross_entropy(self.model(self.see(all_x)), all_y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.memory.add(new_x, new_y)


class DERpp(Loop):
    """Three forward passes: new rows, remembered answers, remembered labels."""

    alpha, beta = 0.1, 0.5

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        for index in order.split(self.size):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            logits = self.model(self.see(new_x))
            loss = F.cross_entropy(logits, new_y)
            if len(self.memory):
                dark_x, _, dark_z = self.memory.sample(self.count)
                light_x, light_y, _ = self.memory.sample(self.count)
                loss = loss + self.alpha * F.mse_loss(self.model(self.see(dark_x)), dark_z)
                loss = loss + self.beta * F.cross_entropy(self.model(self.see(light_x)), light_y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.memory.add(new_x, new_y, logits.detach())


class EWC(Loop):
    """The penalty's gradient, strength * (A w - B), goes straight into the gradients: its value is not needed."""

    strength = 1.0
    total: tuple[list[Tensor], list[Tensor]] | None = None
    """A, the sum of the importances, and B, that of the importances times the anchors."""

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        weights = [weight.detach() for weight in self.model.parameters()]
        for index in order.split(self.size):
            loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.total is not None:
                gradients = [weight.grad for weight in self.model.parameters()]
                torch._foreach_addcmul_(gradients, weights, self.total[0], self.strength)  # noqa: SLF001
                torch._foreach_sub_(gradients, self.total[1], alpha=self.strength)  # noqa: SLF001
            self.optimizer.step()

    def end(self, importance: list[Tensor], classes: int) -> None:  # noqa: ARG002
        pulled = [value * weight.detach() for value, weight in zip(importance, self.model.parameters(), strict=True)]
        if self.total is None:
            self.total = [value.clone() for value in importance], pulled
        else:
            torch._foreach_add_(self.total[0], importance)  # noqa: SLF001
            torch._foreach_add_(self.total[1], pulled)  # noqa: SLF001


class LwF(Loop):
    """The teacher is a copy of the model; it answers without gradients about the same rows."""

    strength, temperature = 1.0, 2.0
    teacher: nn.Module | None = None
    known = 0

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        for index in order.split(self.size):
            seen = self.see(x.index_select(0, index))
            logits = self.model(seen)
            loss = F.cross_entropy(logits, y.index_select(0, index))
            if self.teacher is not None:
                with torch.no_grad():
                    before = (self.teacher(seen)[:, : self.known] / self.temperature).log_softmax(1)
                now = (logits[:, : self.known] / self.temperature).log_softmax(1)
                lesson = F.kl_div(now, before, log_target=True, reduction="batchmean")
                loss = loss + self.strength * self.temperature**2 * lesson
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def end(self, importance: list[Tensor], classes: int) -> None:  # noqa: ARG002
        self.teacher, self.known = deepcopy(self.model).eval(), classes


LOOPS: dict[str, type[Loop]] = {"naive": Naive, "er": Replay, "ewc": EWC, "derpp": DERpp, "lwf": LwF}
