"""A perceptron that takes several steps of its own where the model takes one.

Kingma and Ba, Adam, ICLR 2015. arXiv:1412.6980
"""

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.models.perceptron import Perceptron
from everlearn.models.views import average


class Critic(Perceptron):
    """The learner's optimizer leaves its weights alone: they follow Adam, whose moments go with them."""

    moments: Tensor
    """The means of the gradients and of their squares, (2, weights)."""
    age: Tensor
    """Steps taken."""

    def __init__(self, hidden: tuple[int, ...] = (1024, 1024), outputs: int = 1) -> None:
        super().__init__(hidden, outputs)
        self._forget(0)

    def _build(self, widths: tuple[int, ...], seed: int = 0) -> None:
        super()._build(widths, seed)
        self.requires_grad_(requires_grad=False)
        self._forget(sum(weight.numel() for weight in self.parameters()))

    def _forget(self, weights: int) -> None:
        self.register_buffer("moments", torch.zeros(2, weights, dtype=torch.float32))
        self.register_buffer("age", torch.zeros((), dtype=torch.float32))

    def descend(self, loss: Callable[[], Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """One step of Adam against the gradient of `loss`, to these weights only; none, if that is not finite."""
        weights = list(self.parameters())
        self.requires_grad_(requires_grad=True)
        try:
            gradients = torch.autograd.grad(loss(), weights)
        finally:
            self.requires_grad_(requires_grad=False)
        gradient = torch.cat([part.flatten() for part in gradients])
        if not bool(gradient.isfinite().all()):  # the loss of the model is no better, and will be refused
            return
        mean, square = self.moments
        self.age += 1
        mean.lerp_(gradient, 1 - betas[0])
        square.lerp_(gradient.square(), 1 - betas[1])
        spread = (square / (1 - betas[1] ** self.age)).sqrt() + 1e-8
        step = lr * mean / (1 - betas[0] ** self.age) / spread
        for weight, part in zip(weights, step.split([weight.numel() for weight in weights]), strict=True):
            weight.sub_(part.view_as(weight))

    def meet(self) -> None:
        """Makes it the mean of those of all processes, each of which took steps on its own rows. Under `no_grad`."""
        average([*self.parameters(), self.moments, self.age])
