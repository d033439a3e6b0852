"""The loops that a good engineer would write by hand, in plain PyTorch: what ours are measured against.

Nothing here is checked, saved, resumed or composed, and nothing does more than the method needs: tensors in
RAM, one gather a batch, one forward pass over joined rows, no graph for a quadratic, no `.item()`.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
_SCALE = torch.tensor([1 / (255 * std) for std in STD]).view(3, 1, 1)
_SHIFT = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(3, 1, 1)


def as_stored(x: Tensor) -> Tensor:
    return x


def normalised(x: Tensor) -> Tensor:
    """Pixels of uint8 as the model sees them, (n, 3, h, w)."""
    return x.float().mul_(_SCALE).add_(_SHIFT)


def augmented(x: Tensor, random: torch.Generator, padding: int = 4) -> Tensor:
    """Normalised, after a flip of half of the images and a crop of each, at random."""
    flipped = (torch.rand(len(x), generator=random) < 0.5).nonzero().flatten()
    x = x.index_copy(0, flipped, x.index_select(0, flipped).flip(-1))
    count, channels, height, width = x.shape
    padded = F.pad(x, (padding,) * 4)
    row, plane, line, _ = padded.stride()
    places = padded.numel() - ((channels - 1) * plane + (height - 1) * line + width) + 1
    windows = padded.as_strided((places, channels, height, width), (1, plane, line, 1))
    down, right = torch.randint(2 * padding + 1, (2, count), generator=random)
    return normalised(windows.index_select(0, torch.arange(count) * row + down * line + right))


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
            place = torch.arange(self.seen, self.seen + count)
            drawn = torch.rand(count, generator=self.random, dtype=torch.float64).mul_(place + 1).long()
            slots = torch.where(place < self.capacity, place, drawn)
            kept = (slots < self.capacity).nonzero().flatten()
            slots = slots.index_select(0, kept)
            for held, new in zip(self.columns, rows, strict=True):
                held.index_copy_(0, slots, new.index_select(0, kept))
        self.seen += count

    def sample(self, count: int) -> list[Tensor]:
        index = torch.randint(len(self), (count,), generator=self.random)
        return [column.index_select(0, index) for column in self.columns]


@dataclass
class Loop:
    """What all loops share: `learn` learns one experience and stops after each step, so that two loops can take
    turns; `end` is called, off the clock, after it.
    """  # noqa: D205 (one sentence)

    model: nn.Module
    optimizer: Optimizer
    see: Callable[[Tensor], Tensor]
    size: int
    """Rows in a batch, and in each draw from the memory."""
    memory: Reservoir

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        raise NotImplementedError

    def end(self, importance: list[Tensor], classes: int) -> None:
        """Given the Fisher information of the experience, and the number of classes so far."""


class Naive(Loop):
    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        for index in order.split(self.size):
            loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield


class Replay(Loop):
    """One forward pass over the batch and the old rows."""

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        for index in order.split(self.size):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            all_x, all_y = new_x, new_y
            if len(self.memory):
                old_x, old_y = self.memory.sample(self.size)
                all_x, all_y = torch.cat([new_x, old_x]), torch.cat([new_y, old_y])
            loss = F.cross_entropy(self.model(self.see(all_x)), all_y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.memory.add(new_x, new_y)
            yield


class DERpp(Loop):
    """Three forward passes: new rows, remembered answers, remembered labels."""

    alpha, beta = 0.1, 0.5

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        for index in order.split(self.size):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            logits = self.model(self.see(new_x))
            loss = F.cross_entropy(logits, new_y)
            if len(self.memory):
                dark_x, _, dark_z = self.memory.sample(self.size)
                light_x, light_y, _ = self.memory.sample(self.size)
                loss = loss + self.alpha * F.mse_loss(self.model(self.see(dark_x)), dark_z)
                loss = loss + self.beta * F.cross_entropy(self.model(self.see(light_x)), light_y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.memory.add(new_x, new_y, logits.detach())
            yield


class EWC(Loop):
    """The loss has the penalty in it, as a loop that reports its loss needs; its gradient is added without a graph."""

    strength = 1.0
    pull: tuple[list[Tensor], list[Tensor]] | None = None
    """A, the sum of the importances, and B, that of the importances times the anchors."""
    loss: Tensor

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        parameters = list(self.model.parameters())
        weights = [weight.detach() for weight in parameters]
        self.prepare()
        for index in order.split(self.size):
            self.loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            self.loss.backward()
            if self.pull is not None:
                self.penalise(weights, [weight.grad for weight in parameters])
            self.optimizer.step()
            yield

    def prepare(self) -> None:
        if self.pull is not None:
            total, weighted = self.pull
            self.anchor = [torch.where(a > 0, b / a, 0) for a, b in zip(total, weighted, strict=True)]

    def penalise(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        away = torch._foreach_sub(weights, self.anchor)  # noqa: SLF001
        force = torch._foreach_mul(away, self.pull[0])  # noqa: SLF001
        dots = [torch.dot(a.view(-1), f.view(-1)) for a, f in zip(away, force, strict=True)]
        self.loss = self.loss.detach() + self.strength / 2 * torch.stack(dots).sum()
        torch._foreach_add_(gradients, force, alpha=self.strength)

    def end(self, importance: list[Tensor], classes: int) -> None:  # noqa: ARG002
        pairs = zip(importance, self.model.parameters(), strict=True)
        new = importance, [value * weight.detach() for value, weight in pairs]
        self.pull = new if self.pull is None else tuple(map(torch._foreach_add, self.pull, new))  # noqa: SLF001


class EWCGradient(EWC):
    """Only the penalty's gradient, strength * (A w - B): the least that learns the same, with a loss that lacks it."""

    def penalise(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        torch._foreach_addcmul_(gradients, weights, self.pull[0], self.strength)
        torch._foreach_sub_(gradients, self.pull[1], alpha=self.strength)


class LwF(Loop):
    """The teacher is a copy of the model; it answers without gradients about the same rows."""

    strength, temperature = 1.0, 2.0
    teacher: nn.Module | None = None
    known = 0

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
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
            yield

    def end(self, importance: list[Tensor], classes: int) -> None:  # noqa: ARG002
        self.teacher, self.known = deepcopy(self.model).eval(), classes


LOOPS: dict[str, type[Loop]] = {
    "naive": Naive,
    "er": Replay,
    "ewc": EWC,
    "ewc-gradient": EWCGradient,
    "derpp": DERpp,
    "lwf": LwF,
}
