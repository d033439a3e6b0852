"""Dark experience replay: remember old rows together with what was answered about them.

Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020. arXiv:2004.07211
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from everlearn.batch import ANSWERS, Batch, length, tensor
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.objective import Objective, Output


@dataclass
class DER(Method):
    """L = L_new + alpha * mean (f(x') - z')^2, over old rows x' and the logits z' given when they were stored.

    The mean is over rows and logits. Where the head has grown since, only the outputs that were there then are
    compared. Rows are stored raw and augmented anew at each draw. Departure: the sample is of distinct rows (see
    `Replay`), and a kept row that comes again in a later epoch renews its logits; in one epoch this is the paper's.
    """

    card: ClassVar[Card] = Card("replay", "1 forward, 1 backward over old rows", "rows with logits")

    memory: Memory
    alpha: float = 0.3
    count: int = 32
    """Old rows in each draw."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the distance to the remembered answers."""
        output = rest(model, batch)
        old = self.memory.sample(self.count)
        loss = output.loss
        if old and loss is not None and self.alpha != 0:  # a forward pass leaves traces: running statistics, dropout
            loss = loss + self.alpha * darkness(objective(model, asked(old)).logits, tensor(old, "logits"))
        remember(self.memory, batch, output)
        return Output(loss, output.logits)


def darkness(logits: Tensor, remembered: Tensor) -> Tensor:
    """The mean squared distance, over the outputs that were there when `remembered` (NaN elsewhere) was stored."""
    remembered = remembered.to(logits.device)
    there = ~remembered.isnan()
    away = logits[:, : remembered.shape[1]].float() - remembered.nan_to_num(0)
    return (away.square() * there).sum() / there.sum()


def remember(memory: Memory, batch: Batch, output: Output) -> None:
    """Stores the rows of the batch with the answers of this step, given before its update.

    A row that is kept already, and comes again in a later epoch, gets the answers of now: those of a first epoch are
    those of a model that knows little yet, and no lesson to hold on to.
    """
    memory.add(batch | {"logits": output.logits[: length(batch)].detach().float()}, renew=True)


def asked(old: Batch, *, answers: bool = False) -> Batch:
    """Remembered rows as an objective takes them: without their logits, and with their answers only if told so."""
    return {name: column for name, column in old.items() if name != "logits" and (answers or name not in ANSWERS)}
