"""A net for each task: no sharing, so neither forgetting nor transfer.

The bound "separate networks" of van de Ven et al., Three types of incremental learning, Nature Machine
Intelligence 4, 2022. doi:10.1038/s42256-022-00568-3
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, take, tensor
from everlearn.method import Card, Method
from everlearn.models.quadratic import fitted
from everlearn.models.views import Weights, bare, recall, snapshot
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class Independent(Method):
    """w_t = what training from the first weights w_0 makes of task t alone; rows of task t are answered by w_t.

    A task that comes back goes on from its own weights; a row of a task that never came is answered by w_0. Weights,
    running statistics and heads all start again, but the optimizer is not the method's: with
    `Learner(fresh_optimizer=True)` no momentum crosses from task to task, and the nets are those of separate runs, bit
    for bit.
    """

    card: ClassVar[Card] = Card("bound", "none", "the weights, for each task", ("task labels",))

    first: Weights = field(default_factory=dict, init=False)
    """w_0; what the model grew since then is in it as it was drawn."""
    nets: dict[int, Weights] = field(default_factory=dict, init=False)
    """w_t of the tasks that have ended."""
    task: int = field(default=-1, init=False)
    """The task that the model itself answers for; -1 before the first."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Takes the weights of the task, or the first ones."""
        if experience.task is None:
            raise ValueError(
                f"Independent has a net for each task, but experience {experience.index} has the task None; "
                "make the stream with by_task, or use the method naive"
            )
        own = bare(model).state_dict()
        self.first = snapshot(model) | fitted(self.first, own)
        self.task = experience.task
        for name, value in (self.first | fitted(self.nets.get(self.task, {}), self.first)).items():
            own[name].copy_(value)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Keeps the weights of the task."""
        self.nets = self.nets | {self.task: snapshot(model)}

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Each row is answered by the net of its task."""
        if not self.first:
            return objective(model, batch).logits
        return each_task(model, batch, objective, self._net)

    def _net(self, task: int) -> Weights:
        """What the model lacks to be the net of `task`."""
        return {} if task == self.task else self.first | fitted(self.nets.get(task, {}), self.first)


def each_task(model: nn.Module, batch: Batch, objective: Objective, lent: Callable[[int], Weights]) -> Tensor:
    """The logits of all rows, in their order, those of a task with the weights `lent(task)` in the model."""
    return apart(batch, lambda task, rows: recall(model, lent(task), objective, rows).logits)


def apart(batch: Batch, answer: Callable[[int, Batch], Tensor]) -> Tensor:
    """What `answer` makes of the rows of each task, for all rows in their order."""
    told = tensor(batch, "task")
    tasks = torch.unique(told).tolist() or [-1]
    places = [(told == task).nonzero().flatten() for task in tasks]
    parts = [take(batch, mine) for mine in places] if len(tasks) > 1 else [batch]
    answers = [answer(task, part) for task, part in zip(tasks, parts, strict=True)]
    return torch.cat(answers)[torch.cat(places).argsort()]
