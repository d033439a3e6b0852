"""ER with asymmetric cross-entropy: new rows do not push old classes down.

Caccia et al., New Insights on Reducing Abrupt Representation Change in Online Continual Learning, ICLR 2022.
arXiv:2104.05025
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.methods.mir import labels
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class ERACE(Method):
    """L = CE(new rows; among the classes of this batch) + CE(old rows; among all classes seen so far).

    As in the authors' code, a class never seen before also counts for new rows, and in the first experience all do. A
    cross-entropy among some classes is the objective's loss minus what the others add to it: the mean over rows of
    log sum_all exp(z) - log sum_some exp(z). So what follows in the chain keeps its part of the loss.
    Departures: the linear head of the model, not a cosine classifier; the sample is of distinct rows (see `Replay`).
    """

    card: ClassVar[Card] = Card("replay", "1 forward, 1 backward over old rows", "rows", ("classes",))

    memory: Memory
    count: int = 32
    """Old rows in each batch; with 0 it is fine-tuning."""

    seen: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), init=False)
    """Of each class, whether it has come."""
    experiences: int = field(default=0, init=False)
    """Those begun so far."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts."""
        self.experiences += 1

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Takes from the loss what classes that are not asked about add to it, and adds that of old rows."""
        if "task" in batch:
            raise ValueError(
                "erace decides which classes compete for a row, but heads by the column 'task' never compete; "
                "take er, or leave out the column if one head answers for all classes"
            )
        old = self.memory.sample(self.count)
        output = rest(model, batch)
        loss = output.loss
        if loss is not None and self.count:
            logits = output.logits[: length(batch)]  # rows that the rest of the chain joined come behind
            y = labels(batch, logits, "erace")
            here = present(y, logits.shape[1])
            self.seen = F.pad(self.seen.to(y.device), (0, len(here) - len(self.seen))) | here
            if self.experiences != 1:
                loss = loss - surplus(logits, y, here | ~self.seen)
            if old:
                loss = self._with(old, loss, model, objective)
        self.memory.add(batch)
        return Output(loss, output.logits)

    def _with(self, old: Batch, loss: Tensor, model: nn.Module, objective: Objective) -> Tensor:
        past, logits = objective(model, old)
        if past is None:
            return loss
        y = labels(old, logits, "erace")
        self.seen = self.seen | present(y, logits.shape[1])  # rows that were remembered elsewhere
        return loss + past - surplus(logits, y, self.seen)


def present(y: Tensor, classes: int) -> Tensor:
    """Of each class, (classes,) bool, whether there is a row of it."""
    room = torch.zeros(classes + 1, dtype=torch.bool, device=y.device)  # the last place is for what is no class
    return room.index_fill(0, y.where((y >= 0) & (y < classes), classes), value=True)[:classes]


def surplus(logits: Tensor, y: Tensor, among: Tensor) -> Tensor:
    """What classes that are not `among`, (classes,) bool, add to the mean cross-entropy of the labelled rows."""
    z = logits.float()
    added = z.logsumexp(1) - z.masked_fill(~among, -torch.inf).logsumexp(1)
    return added.masked_fill(y == UNLABELED, 0).sum() / (y != UNLABELED).sum()
