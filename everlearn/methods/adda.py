"""ADDA: the encoder of the target learns to make what that of the source, which stays, makes of its rows.

Tzeng et al., Adversarial Discriminative Domain Adaptation, CVPR 2017. arXiv:1702.05464
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, take, tensor, unlabeled
from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.aligned import Aligned, Side
from everlearn.methods.dann import domain_loss
from everlearn.models.critic import Critic
from everlearn.models.features import tapped, vectors
from everlearn.models.resting import unshaken
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class ADDA(Aligned):
    """L = trade_off * mean -log D(f(x_T)), where D has first taken `steps` steps to tell f0(x_S) from f(x_T).

    f0, the encoder of the source, is the model as the experience found it, in eval mode; f is the model. So the source
    is an experience of its own, learned before. The head is moved by nothing: where there are target rows there is no
    loss of labelled ones. Departures: Adam for D only; the model learns the target in eval mode, as the copy is, or D
    would know it by its dropout; with together=False its normalisations follow the target rows all the same.
    """

    card: ClassVar[Card] = Card("adaptation", "1 forward of the source encoder, a small net", "the discriminator")

    hidden: int = 1024
    """Units of each of the two hidden layers of D."""
    steps: int = 1
    lr: float = 1e-3
    seed: int = 0

    critic: Critic = field(init=False)
    source: Weights = field(default_factory=dict, init=False)
    """f0, and its head, during an experience."""

    def __post_init__(self) -> None:
        positive(hidden=self.hidden, steps=self.steps)
        self.critic = Critic((self.hidden, self.hidden))

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A discriminator for features of that width."""
        self.critic.widen(width, mix(self.seed, width))
        self.critic.to(device)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Takes a copy of the encoder."""
        super().begin(model, experience, objective)
        self.source = snapshot(model)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Learns the target rows, by what the discriminator says about them."""
        sides = self.sides(batch)
        if sides is None:
            return rest(model, batch)
        mine, theirs = sides
        with tapped(model, self.tap) as seen, unshaken(model, settled=self.together):
            output = rest(model, unlabeled(take(batch, theirs)))
        known, said = recall(model, self.source, _encoded, objective, unlabeled(take(batch, mine)), self.tap)
        reached, told, y = vectors(seen)[: len(theirs)], output.logits[: len(theirs)], tensor(batch, "y")
        with torch.autocast(reached.device.type, enabled=False):
            source = Side(known.float(), said.float(), y[mine])
            gap = self.gap(model, source, Side(reached.float(), told.float(), y[theirs]))
        return Output(self.total(output.loss, gap), torch.cat([said, told])[torch.cat(sides).argsort()])

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How badly the target passes for the source, after the steps of the discriminator."""
        sides = source.features, target.features.detach()
        for _ in range(self.steps):
            self.critic.descend(lambda: domain_loss(self.critic, sides, strength=0.0), self.lr)
        return F.softplus(-self.critic(target.features)).mean()

    def after_step(self, model: nn.Module) -> None:
        """The discriminators of all processes become one."""
        super().after_step(model)
        self.critic.meet()

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Lets the copy go."""
        self.source = {}


def _encoded(model: nn.Module, objective: Objective, batch: Batch, tap: str | None) -> tuple[Tensor, Tensor]:
    """The features and the logits of the rows."""
    with tapped(model, tap) as seen:
        logits = objective(model, batch).logits
    return vectors(seen), logits
