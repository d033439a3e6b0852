"""Old rows beside the new ones."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bare.loop import Loop


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


class MIR(Loop):
    """One forward pass over the batch and those of twice as many old rows that a step on the batch would hurt most."""

    rate = 0.05

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        for index in order.split(self.size):
            new_x, new_y = x.index_select(0, index), y.index_select(0, index)
            all_x, all_y = new_x, new_y
            if len(self.memory) > self.size:
                old_x, old_y = self.memory.sample(2 * self.size)
                worst = self.interference(new_x, new_y, self.see(old_x), old_y).topk(self.size).indices
                all_x = torch.cat([new_x, old_x.index_select(0, worst)])
                all_y = torch.cat([new_y, old_y.index_select(0, worst)])
            loss = F.cross_entropy(self.model(self.see(all_x)), all_y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.memory.add(new_x, new_y)
            yield

    def interference(self, new_x: Tensor, new_y: Tensor, old: Tensor, old_y: Tensor) -> Tensor:
        """How much the loss of each old row rises by a step on the new ones, (rows)."""
        named = dict(self.model.named_parameters())
        self.model.eval()
        weights = list(named.values())
        gradients = torch.autograd.grad(F.cross_entropy(self.model(self.see(new_x)), new_y), weights)
        with torch.no_grad():
            ahead = torch._foreach_sub(weights, gradients, alpha=self.rate)  # noqa: SLF001
            after = functional_call(self.model, dict(zip(named, ahead, strict=True)), (old,))
            losses = F.cross_entropy(torch.cat([after, self.model(old)]), old_y.repeat(2), reduction="none")
        self.model.train()
        after_step, before_step = losses.chunk(2)
        return after_step - before_step


class ICaRL(Loop):
    """A yes or no about each class: the label's for new classes, the teacher's for old ones; exemplars join in."""

    exemplars: list[Tensor] | None = None
    """Their x and y, in random order."""
    teacher: nn.Module
    known = 0

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        met, seen = int(y.max()) + 1, 0
        for index in order.split(self.size):
            all_x, all_y = x.index_select(0, index), y.index_select(0, index)
            if self.exemplars is not None:
                share = slice(*(rows * len(self.exemplars[0]) // len(x) for rows in (seen, seen + len(index))))
                old_x, old_y = (column[share] for column in self.exemplars)
                all_x, all_y = torch.cat([all_x, old_x]), torch.cat([all_y, old_y])
            seen += len(index)
            shown = self.see(all_x)
            target = F.one_hot(all_y, met).float()
            if self.known:
                with torch.no_grad():
                    target[:, : self.known] = self.teacher(shown)[:, : self.known].sigmoid()
            logits = self.model(shown)[:, :met]
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield

    def end(self, found: list[Tensor], classes: int) -> None:
        self.exemplars, self.teacher, self.known = found, deepcopy(self.model).eval(), classes
