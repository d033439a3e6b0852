"""Experience replay: learn from old rows along with the new ones.

Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019. arXiv:1902.10486
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, join, labelled, unanswered
from everlearn.border import one_of
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Replay(Method):
    """L = mean over (batch + old rows) of the loss: one forward pass over both.

    `combine` says how. "concat" is the above. "sum" is L_new + L_old, and "1/k" is L_new / k + (1 - 1/k) L_old in the
    k-th experience (van de Ven et al., 2022. doi:10.1038/s42256-022-00568-3): each part has a mean, a forward pass and
    batch statistics of its own, and what follows in the chain sees the new rows only. As many old rows as new ones
    make "concat" half of "sum".

    Departure: the memory keeps a uniform sample of the distinct rows by hashed priority instead of Vitter's
    reservoir, so that a row that comes again in a later epoch is neither stored twice nor given a second chance.
    """

    card: ClassVar[Card] = Card("replay", "the old rows in the same pass", "rows")

    memory: Memory
    count: int = 32
    """Old rows in each batch."""
    combine: Literal["concat", "sum", "1/k"] = "concat"

    experiences: int = field(default=0, init=False)
    """k: those begun so far."""

    def __post_init__(self) -> None:
        one_of("combine", self.combine, ("concat", "sum", "1/k"))

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts."""
        self.experiences += 1

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Joins old rows to the batch; then the batch may enter the memory, so that no row meets itself."""
        old = self.draw(model, batch, objective)
        if isinstance(y := old.get("y"), Tensor) and y.dtype == torch.int64:
            batch = unanswered(batch)  # or else the join would leave the labels of the old rows out
        rows = join(batch, old) if old and self.combine == "concat" else batch
        output = rest(model, rows)
        if self.combine != "concat":
            output = self._weighed(output, model, old, objective)
        self.keep(model, batch, objective)
        self.memory.note(rows, output.logits)
        return output

    def draw(self, model: nn.Module, batch: Batch, objective: Objective) -> Batch:
        """The old rows to learn beside `batch`; {} for none."""
        return self.memory.sample(self.count)

    def keep(self, model: nn.Module, batch: Batch, objective: Objective) -> None:
        """Offers the rows of `batch` to the memory, but for those without a label."""
        self.memory.add(labelled(batch))

    def _weighed(self, new: Output, model: nn.Module, old: Batch, objective: Objective) -> Output:
        """The loss of the new rows and that of the old ones, each with its weight."""
        mine, theirs = 1.0, 1.0
        if self.combine == "1/k":
            if not self.experiences:
                raise ValueError('combine="1/k" counts experiences, but none has begun; without borders, take "sum"')
            mine, theirs = 1 / self.experiences, 1 - 1 / self.experiences
        if not old or new.loss is None or theirs == 0:  # a forward pass leaves traces: running statistics, dropout
            return new
        past, logits = objective(model, old)
        self.memory.note(old, logits)
        return new if past is None else Output(mine * new.loss + theirs * past, new.logits)
