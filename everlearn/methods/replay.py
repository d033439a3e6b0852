"""Experience replay: learn from old rows along with the new ones.

Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019. arXiv:1902.10486
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from everlearn.batch import Batch, join
from everlearn.memory import Memory
from everlearn.method import Card, Method
from everlearn.objective import Objective, Output


@dataclass
class Replay(Method):
    """L = mean over (batch + old rows) of the loss: one forward pass over both.

    Departure: the memory keeps a uniform sample of the distinct rows by hashed priority instead of Vitter's
    reservoir, so that a row that comes again in a later epoch is neither stored twice nor given a second chance.
    """

    card: ClassVar[Card] = Card("replay", "the old rows in the same pass", "rows")

    memory: Memory
    count: int = 32
    """Old rows in each batch."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Joins old rows to the batch; then the batch may enter the memory, so that no row meets itself."""
        old = self.memory.sample(self.count)
        output = rest(model, join(batch, old) if old else batch)
        self.memory.add(batch)
        return output
