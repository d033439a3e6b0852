"""PackNet: a task owns the largest of the weights that it trained; what is pruned is free for the next one.

Mallya and Lazebnik, PackNet: Adding Multiple Tasks to a Single Network, CVPR 2018. arXiv:1711.05769
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length
from everlearn.method import Card, Method
from everlearn.methods.independent import each_task
from everlearn.models.nets import MultiHead
from everlearn.models.resting import block, restore, settled_norms, survivors
from everlearn.models.views import Weights, bare, snapshot, total, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class PackNet(Method):
    """Task k moves free weights; of these, in each layer, the share `prune` of lowest |w| becomes 0 and stays free,
    and k owns the others. Rows of task t are answered with w * [1 <= owner <= t]: for ever, bit for bit.

    Biases, normalisations and their statistics belong to the first task, each head to its own. Departure: survivors
    are retrained by the optimizer of the loop in what follows the first `after` epochs, at most to the end.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("architecture", "none", "the weights, a byte for each", ("task labels", "MultiHead"))

    prune: float = 0.5
    after: float = 1.0

    tasks: list[int] = field(default_factory=list, init=False)
    """In order of arrival: what is marked with k, from 1, is owned by the k-th; what is marked with 0 is free."""
    owner: Weights = field(default_factory=dict, init=False)
    held: Weights = field(default_factory=dict, init=False)
    moving: int = field(default=-1, init=False)
    """The mark of what moves: 0 before the pruning, k after it."""
    rows: int = field(default=0, init=False)
    due: int = field(default=0, init=False)
    """Pruning comes when the rows of this task, which are those in `rows` of all processes, are as many."""

    def __post_init__(self) -> None:
        if not 0 <= self.prune <= 1:
            raise ValueError(f"prune is a share, from 0 (no room for a next task) to 1, but is {self.prune}")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """From here on, what has an owner must not move."""
        net, task = bare(model), experience.task
        if not isinstance(net, MultiHead) or task is None or task in self.tasks or len(self.tasks) == 127:
            what = f"{type(net).__name__} and task {task}"
            raise ValueError(f"PackNet takes a MultiHead and new tasks (by_task), at most 127 of them, but not {what}")
        self.tasks, self.moving, self.held = [*self.tasks, task], 0, snapshot(net)
        self.owner = {n: torch.zeros_like(w, dtype=torch.int8) for n, w in self.held.items()} | self.owner
        self.rows, self.due = 0, round(self.after * len(experience.train))

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Counts rows; from the second task on, normalisations use the statistics of the first."""
        if self.tasks and not torch.is_grad_enabled():
            raise ValueError("PackNet makes room by pruning, which changes the model: learn the task, not remember it")
        self.rows += length(batch)
        with settled_norms(model, settled=len(self.tasks) > 1):
            return rest(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into what is held."""
        block(model, {name: owner == self.moving for name, owner in self.owner.items()})

    def after_step(self, model: nn.Module) -> None:
        """Takes back what momentum, moments and decay moved, and prunes when it is time."""
        restore(model, self.held, {name: owner == self.moving for name, owner in self.owner.items()})
        if self.moving == 0 and total(self.rows, next(model.parameters()).device) >= self.due:
            self._pack(model)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Prunes where the experience was too short for it."""
        if self.moving == 0:
            self._pack(model)

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Rows of a task before the last one see what there was then."""
        return each_task(model, batch, objective, self._seen) if self.tasks else objective(model, batch).logits

    def _seen(self, task: int) -> Weights:
        last = self.tasks.index(task) + 1 if task in self.tasks[:-1] else 0
        return {n: self.held[n].clone().masked_fill_((o < 1) | (o > last), 0) for n, o in self.owner.items() if last}

    def _pack(self, model: nn.Module) -> None:
        weights, mine, owner = trainable(model), f"heads.{self.tasks[-1]}.", dict(self.owner)
        for name, value in bare(model).state_dict().items():
            free = left = owner[name] == 0
            if name in weights and value.dim() > 1 and not name.startswith("heads."):
                left = survivors(value, free, self.prune)
                value.masked_fill_(free & ~left, 0)
            if name.startswith(mine) or not name.startswith("heads."):
                owner[name] = owner[name].masked_fill(left, len(self.tasks))
        self.owner, self.held, self.moving = owner, snapshot(model), len(self.tasks)
