"""GDumb: keep a balanced sample, and train from scratch on nothing else.

Prabhu et al., GDumb: A Simple Approach that Questions Our Progress in Continual Learning, ECCV 2020.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import distributed, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from everlearn.batch import UNLABELED, Batch, move, take, tensor
from everlearn.border import finite_loss, positive
from everlearn.data.order import epoch_order
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.models.quadratic import fitted
from everlearn.models.views import Weights, bare, snapshot, trainable
from everlearn.objective import Objective, Output, Viewed
from everlearn.randomness import mix, seeded
from everlearn.streams.experience import Experience


@dataclass
class GDumb(Method):
    """Nothing is learned from a batch; its rows may enter the memory. At the end of an experience the weights become
    what they were before the first, and are trained on the memory alone, by an SGD of its own.

    The learning rate falls along a cosine from `lr` towards `lr_min` in cycles of 1, 2, 4, ... epochs. What comes out
    is a function of the first weights, the memory and the seed. Departures: of each class the memory keeps a uniform
    sample by hashed priority (`Balanced`); no CutMix, no warm-up epoch, and fewer epochs than 256.
    """  # noqa: D205 (what happens, in one sentence)

    card: ClassVar[Card] = Card("replay", "at an end, `epochs` over the memory", "rows, the weights", alone=True)

    memory: Memory
    lr: float = 0.05
    lr_min: float = 0.0005
    epochs: int = 31
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-6
    seed: int = 0

    first: Weights = field(default_factory=dict, init=False)
    """Weights and running statistics before anything was learned; of a head that grew, as its new rows began."""
    learning: bool = field(default=False, init=False)
    """Whether rows came to be learned; where they only are to be remembered, the model stays as it is."""

    def __post_init__(self) -> None:
        positive(epochs=self.epochs, batch_size=self.batch_size)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Offers the labelled rows to the memory; running statistics stay as they were."""
        self.learning = self.learning or torch.is_grad_enabled()
        still = [(buffer, buffer.clone()) for buffer in bare(model).buffers()]
        with torch.no_grad():
            logits = rest(model, batch).logits
            for buffer, before in still:
                buffer.copy_(before)
        if "y" in batch:
            self.memory.add(take(batch, tensor(batch, "y") != UNLABELED))
        return Output(None, logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Trains from scratch on the memory."""
        if not (self.learning and len(self.memory)):
            return
        net = deepcopy(bare(model))  # whoever is interrupted here finds the model as it was
        if not net.training:
            net.train()
        self.first = snapshot(net) | fitted(self.first, net.state_dict())
        net.load_state_dict(self.first)
        with seeded(self.seed):
            self._train(net, objective)
        if distributed.is_available() and distributed.is_initialized():
            for value in net.state_dict().values():  # each has a memory of its own
                distributed.broadcast(first := value.contiguous(), 0)
                value.copy_(first)
        bare(model).load_state_dict(net.state_dict())
        self.learning = False

    def _train(self, net: nn.Module, objective: Objective) -> None:
        weights = list(trainable(net).values())
        sgd = torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=self.weight_decay)
        cosine = CosineAnnealingWarmRestarts(sgd, T_0=1, T_mult=2, eta_min=self.lr_min)
        for epoch in range(self.epochs):
            order = epoch_order(len(self.memory), self.seed, 0, epoch)
            for place, part in enumerate(order.tensor_split(-(-len(order) // self.batch_size))):  # none of one row
                batch = move(self.memory.take(part), weights[0].device)
                if isinstance(objective, Viewed):
                    objective = replace(objective, key=mix(self.seed, epoch, place))  # augmented, as in training
                if (loss := objective(net, batch).loss) is not None:
                    finite_loss(loss)
                    sgd.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    sgd.step()
            cosine.step()
