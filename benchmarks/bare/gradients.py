"""Steps that old rows agree to."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bare.loop import Loop
from everlearn.models.gradients import dual


class Agreed(Loop):
    """Each step is turned between backward and the optimizer."""

    old: list[Tensor] | None = None
    """The columns of the old rows."""

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        self.weights = list(self.model.parameters())
        self.prepare()
        for index in order.split(self.size):
            loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.old is not None:
                self.turn([weight.grad for weight in self.weights])
            self.optimizer.step()
            yield

    def prepare(self) -> None:
        """Called before the first step of an experience."""

    def turn(self, gradients: list[Tensor]) -> None:
        raise NotImplementedError

    def at(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The gradient of old rows."""
        self.model.eval()
        loss = F.cross_entropy(self.model(self.see(x)), y)
        self.model.train()
        return torch.autograd.grad(loss, self.weights)

    def end(self, found: list[Tensor], classes: int) -> None:  # noqa: ARG002
        self.old = found


class AGEM(Agreed):
    """Two inner products, weight by weight: the gradients are never laid out in one vector."""

    def turn(self, gradients: list[Tensor]) -> None:
        index = torch.randint(len(self.old[0]), (self.size,), generator=self.memory.random)
        x, y = (column.index_select(0, index) for column in self.old)
        reference = self.at(x, y)
        product = sum(torch.dot(g.view(-1), r.view(-1)) for g, r in zip(gradients, reference, strict=True))
        if product < 0:
            length = sum(torch.dot(r.view(-1), r.view(-1)) for r in reference)
            torch._foreach_sub_(gradients, torch._foreach_mul(reference, product / length))  # noqa: SLF001


class GEM(Agreed):
    """The old gradients lie in one matrix, allocated once in an experience.

    The quadratic program, of as many variables as there are old experiences, is given to a library, as one would.
    """

    gamma = 0.5

    def prepare(self) -> None:
        if self.old is not None:
            x, y, of = self.old
            self.parts = [(x[of == one], y[of == one]) for one in of.unique()]
            self.matrix = x.new_empty(len(self.parts) + 1, sum(weight.numel() for weight in self.weights))

    def turn(self, gradients: list[Tensor]) -> None:
        for row, part in zip(self.matrix, self.parts, strict=False):
            torch.cat([gradient.view(-1) for gradient in self.at(*part)], out=row)
        torch.cat([gradient.view(-1) for gradient in gradients], out=self.matrix[-1])
        references, gradient = self.matrix[:-1], self.matrix[-1]
        both = (references @ self.matrix.T).double().numpy()
        if (both[:, -1] < 0).any():
            v = torch.from_numpy(dual(both[:, :-1], both[:, -1], self.gamma)).float()
            turned = torch.addmv(gradient, references.T, v).split([weight.numel() for weight in self.weights])
            for old, new in zip(gradients, turned, strict=True):
                old.view(-1).copy_(new)
