"""Dark experience replay++: as DER, and learn the labels of old rows too.

Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020. arXiv:2004.07211
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from everlearn.batch import Batch, tensor
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.methods.der import asked, darkness, remember
from everlearn.objective import Objective, Output


@dataclass
class DERpp(Method):
    """L = L_new + alpha * mean (f(x') - z')^2 + beta * L(f(x''), y''), with x' and x'' drawn independently."""

    card: ClassVar[Card] = Card("replay", "2 forward, 2 backward over old rows", "rows with logits")

    memory: Memory
    alpha: float = 0.1
    beta: float = 0.5
    count: int = 32
    """Old rows in each of the two draws."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the distance to the remembered answers and the loss on remembered labels."""
        output = rest(model, batch)
        dark, light = self.memory.sample(self.count), self.memory.sample(self.count)
        loss = output.loss
        if dark and loss is not None and self.alpha != 0:
            loss = loss + self.alpha * darkness(objective(model, asked(dark)).logits, tensor(dark, "logits"))
        if light and loss is not None and self.beta != 0:
            known = objective(model, asked(light, answers=True)).loss
            if known is not None:
                loss = loss + self.beta * known
        remember(self.memory, batch, output)
        return Output(loss, output.logits)
