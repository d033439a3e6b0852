"""WDGRL: features whose Wasserstein distance between source and target, told by a critic, is small.

Shen et al., Wasserstein Distance Guided Representation Learning for Domain Adaptation, AAAI 2018. arXiv:1707.01217
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side
from everlearn.models.critic import Critic
from everlearn.objective import Objective
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class WDGRL(Aligned):
    """gap = mean c(f_S) - mean c(f_T), where the critic c has first taken `steps` steps up gap - penalty * steepness.

    steepness = mean (||dc/df||_2 - 1)^2, over f_S, f_T and points between them: it holds c to slopes near 1.

    The features descend the gap along the gradient of the learner, the critic ascends by Adam of its own. Departures:
    sides of different sizes are paired in turn for the points between them; in several processes each critic takes its
    steps on its own rows, and after each step of the model they become their mean.
    """

    card: ClassVar[Card] = Card("adaptation", "some passes of a small net over the features", "the critic, its moments")

    hidden: int = 100
    """Units of the hidden layer of the critic."""
    steps: int = 5
    lr: float = 1e-3
    penalty: float = 10.0
    """gamma of the paper."""
    seed: int = 0
    trade_off: float = field(default=0.1, kw_only=True)

    critic: Critic = field(init=False)
    experience: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        positive(hidden=self.hidden, steps=self.steps)
        self.critic = Critic((self.hidden,))

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Notes which experience it is: the points between features are a function of its steps."""
        super().begin(model, experience, objective)
        self.experience = experience.index

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A critic for features of that width."""
        self.critic.widen(width, mix(self.seed, width))
        self.critic.to(device)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """The distance that the critic tells after its steps."""
        sides = source.features.detach(), target.features.detach()
        for step in range(self.steps):
            between = self._between(*sides, mix(self.seed, self.experience, self.taken, step))

            self.critic.descend(partial(self._badness, sides, between), self.lr)
        return self._distance(source.features, target.features)

    def after_step(self, model: nn.Module) -> None:
        """The critics of all processes become one."""
        super().after_step(model)
        self.critic.meet()

    def _badness(self, sides: tuple[Tensor, Tensor], between: Tensor) -> Tensor:
        return self.penalty * steepness(self.critic, torch.cat([*sides, between])) - self._distance(*sides)

    def _distance(self, source: Tensor, target: Tensor) -> Tensor:
        told: Tensor = self.critic(torch.cat([source, target])).flatten()
        return told[: len(source)].mean() - told[len(source) :].mean()

    def _between(self, source: Tensor, target: Tensor, seed: int) -> Tensor:
        turn = torch.arange(max(len(source), len(target)), device=source.device)
        random = torch.Generator().manual_seed(seed)
        share = torch.rand(len(turn), 1, generator=random, dtype=source.dtype).to(source.device)
        return torch.lerp(source[turn % len(source)], target[turn % len(target)], share)


def steepness(critic: nn.Module, points: Tensor) -> Tensor:
    """The mean of (||dc/df||_2 - 1)^2 over `points`, (rows, width), the norm being that of a row's whole gradient."""
    points = points.detach().requires_grad_()
    slope: Tensor = torch.autograd.grad(critic(points).sum(), points, create_graph=True)[0]
    length: Tensor = slope.norm(dim=1)
    return (length - 1).square().mean()
