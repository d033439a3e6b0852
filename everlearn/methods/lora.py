"""LoRA: each experience changes the matrices of the body by one of low rank, and nothing else but the head.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. arXiv:2106.09685
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.border import positive
from everlearn.method import Card, Method
from everlearn.models.heads import drawn
from everlearn.models.lowrank import LowRank, answering, matrices
from everlearn.models.resting import drop_gradients
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class LoRA(Method):
    """W = W_0 + alpha / r * B A, with W_0 the weight when the experience began, A (r, inputs) drawn anew and B = 0.

    A, B and the head learn. The model holds W itself, at every step: its gradient G is turned into those of A and B,
    alpha / r * B^T G and alpha / r * G A^T, and W is made anew after the step. So no layer is replaced, whatever else
    looks at the model sees what it computes, and merging at the end is to forget W_0. Between experiences, in a stream
    without borders, the body stands still. Departure: no dropout before A.
    """

    card: ClassVar[Card] = Card("architecture", "none", "nothing; while it learns, the adapted weights")

    r: int = 8
    alpha: float = 16.0
    targets: str = ".*weight"
    """A regular expression for the names of the adapted weights, as `model.named_parameters()` has them."""
    head: str | None = None
    """The linear layer that answers, which learns as a whole; None for the last one."""
    seed: int = 0
    """For A."""

    adapters: LowRank = field(default_factory=LowRank, init=False)
    base: Weights = field(default_factory=dict, init=False)
    """W_0, (outputs, inputs), of all that is adapted in this experience."""
    learns: list[str] = field(default_factory=list, init=False)
    """The weights of the head."""

    def __post_init__(self) -> None:
        positive(r=self.r)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A new adapter for each matrix, which changes nothing yet."""
        self.learns = list(answering(model, self.head))
        self.base = {name: _matrix(weight).clone() for name, weight in matrices(model, self.targets, self.head).items()}
        for place, (name, base) in enumerate(self.base.items()):
            a = drawn(self.r, base.shape[1], mix(self.seed, experience.index, place))[0]
            self.adapters.put(name, a.to(base), base.new_zeros(len(base), self.r))

    def before_step(self, model: nn.Module) -> None:
        """What would move W moves A and B; the rest of the body stays."""
        for name in self.base:
            grad = bare(model).get_parameter(name).grad
            if grad is not None:
                (a, b), g = self.adapters.pair(name), self.scale * _matrix(grad)
                with torch.no_grad():
                    a.grad = b.T @ g if a.grad is None else a.grad + b.T @ g  # what is added to the loss may be about A
                    b.grad = g @ a.T
        drop_gradients(model, but=self.learns or answering(model, self.head))  # none before the first experience

    def after_step(self, model: nn.Module) -> None:
        """Puts W where A and B say."""
        for name, base in self.base.items():
            (a, b), weight = self.adapters.pair(name), bare(model).get_parameter(name)
            weight.copy_(torch.addmm(base, b, a, alpha=self.scale).reshape(weight.shape))

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """What was learned is part of the model, for good."""
        self.base = {}

    @property
    def scale(self) -> float:
        """What the product of B and A is multiplied with."""
        return self.alpha / self.r


def _matrix(weight: Tensor) -> Tensor:
    """A weight or its gradient as (outputs, inputs), in float32 at least."""
    flat = weight.detach().reshape(len(weight), -1)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))
