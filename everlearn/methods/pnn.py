"""PNN: each task gets a net of its own, which also reads what the layers of all frozen nets before it read.

Rusu et al., Progressive Neural Networks, 2016. arXiv:1606.04671
"""

from dataclasses import dataclass, field
from itertools import takewhile
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, move
from everlearn.method import Card, Method
from everlearn.methods.independent import apart
from everlearn.models.columns import Column, Laterals, readers, reading, restart, through
from everlearn.models.quadratic import fitted
from everlearn.models.views import Weights, bare, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class PNN(Method):
    """h_i^k = f(W_i^k h_(i-1)^k + sum_(j<k) U_i^(k:j) h_(i-1)^j) in each linear and convolution layer i but the first.

    Column k, which is W^k and U^(k:j), answers the rows of the k-th task. The model is the column that learns; those
    before it are frozen, in eval mode, and answer the same for ever, bit for bit. U is of the kind of its layer, as in
    equation 1. Departures: no adapters (equation 2), and no U where W is frozen; the last task may go on.
    """

    card: ClassVar[Card] = Card(
        "architecture", "1 forward for each task before", "nets and laterals, for each task", ("task labels",)
    )

    redraw: bool = True
    """Whether a new column is drawn anew, or begins with the weights that the model came with: pretrained ones, say."""
    seed: int = 0

    laterals: Laterals = field(default_factory=Laterals, init=False)
    """U of the column that learns, for all j side by side."""
    columns: dict[int, Weights] = field(default_factory=dict, init=False)
    """W of the tasks that have ended, in the order of their arrival, with running statistics; `read` is their U."""
    read: dict[int, Weights] = field(default_factory=dict, init=False)
    first: Weights = field(default_factory=dict, init=False)
    """What the model came with; what it grew since then is in it as it was drawn."""
    task: int = field(default=-1, init=False)
    """The task that the model itself answers for; -1 before the first."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """A fresh column, unless the last one goes on."""
        net, task, k = bare(model), experience.task, len(self.columns)
        rows, back = experience.train.take(torch.arange(1)), task in self.columns and task != self.task
        if task is None or "task" not in rows or back:
            raise ValueError(
                f"experience {experience.index} {f'brings back task {task}' if back else 'has no task'}, but PNN has a "
                'column for each task, which rows name in "task" (by_task), and only the last goes on; use hat, or er'
            )
        first = snapshot(net) | fitted(self.first, net.state_dict())
        if task == self.task or not k:
            self.laterals.widen(net)
        else:
            question = move(rows, next(net.parameters()).device)
            self.laterals.draw(readers(net, question, objective), k, mix(self.seed, k))
            restart(net, first, mix(self.seed, k) if self.redraw else None)
        self.first, self.task = first, task

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """The column reads those before it."""
        if self.columns and self.task not in self.columns and not torch.is_grad_enabled():
            raise ValueError("PNN draws a column for each task but the first, so it must learn it, not remember it")
        if not self.laterals.layers:
            return rest(model, batch)
        net = bare(model)  # compiled, it would not see what its layers read
        with reading(net, self.laterals.weights(), self._before(net, self.task, batch, objective)):
            return rest(net, batch)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Freezes the column."""
        self.columns = self.columns | {self.task: snapshot(model)}
        self.read = self.read | {self.task: {name: u.detach().clone() for name, u in self.laterals.weights().items()}}

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Each row is answered by the column of its task; one that never came, by what the model came with."""
        return apart(batch, lambda task, rows: self._answer(bare(model), task, rows, objective).logits)

    def _answer(self, net: nn.Module, task: int, rows: Batch, objective: Objective) -> Output:
        column = self._column(task)
        with reading(net, column.laterals, self._before(net, task, rows, objective) if column.laterals else ()):
            return recall(net, column.weights, objective, rows)

    def _before(self, net: nn.Module, task: int, batch: Batch, objective: Objective) -> list[Weights]:
        earlier = takewhile(lambda other: other != task, self.columns)
        return through(net, [self._column(each) for each in earlier], batch, objective)

    def _column(self, task: int) -> Column:
        if task == self.task:
            return Column({}, self.laterals.weights())
        return Column(self.first | fitted(self.columns.get(task, {}), self.first), self.read.get(task, {}))
