"""What was learned held on to by the weights, or by the answers of a teacher."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bare.loop import Loop


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

    def end(self, found: list[Tensor], classes: int) -> None:  # noqa: ARG002
        pairs = zip(found, self.model.parameters(), strict=True)
        new = found, [value * weight.detach() for value, weight in pairs]
        self.pull = new if self.pull is None else tuple(map(torch._foreach_add, self.pull, new))  # noqa: SLF001


class MAS(EWC):
    """Twice the strength, as there is no 1/2, and one anchor: the last weights."""

    strength = 2.0

    def prepare(self) -> None:
        pass

    def end(self, found: list[Tensor], classes: int) -> None:  # noqa: ARG002
        self.anchor = [weight.detach().clone() for weight in self.model.parameters()]
        self.pull = (found if self.pull is None else torch._foreach_add(self.pull[0], found), [])  # noqa: SLF001


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

    def end(self, found: list[Tensor], classes: int) -> None:  # noqa: ARG002
        self.teacher, self.known = deepcopy(self.model).eval(), classes
