"""HAT: each task learns which units it uses; weights between units that earlier tasks use stand still.

Serra et al., Overcoming Catastrophic Forgetting with Hard Attention to the Task, ICML 2018. arXiv:1801.01423
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length
from everlearn.method import Card, Method
from everlearn.methods.independent import each_task
from everlearn.models.gates import Gates, chain_of, compensated, gated, gated_weights, opened, share_free, taken
from everlearn.models.resting import block, restore
from everlearn.models.views import Weights, bare, snapshot, total
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class HAT(Method):
    """h <- a h in each layer, a = sigmoid(s e), with e learned for each task; s goes from 1/s_max to s_max in an epoch.

    L = L_new + c sum a (1 - u) / sum (1 - u), where u is the largest a of the tasks before, at s_max. The gradient of a
    weight from unit j to unit i is multiplied by 1 - min(u_i, u_j), that of e compensated for s, and |e| <= 6. What
    u = 1 leaves no gradient is put back after each step. Departure: a task may come back, with its e.
    """

    card: ClassVar[Card] = Card("architecture", "none", "2 x the weights", ("task labels", "MultiHead"))

    s_max: float = 400.0
    c: float = 0.75
    seed: int = 0

    embedding: Gates = field(default_factory=Gates, init=False)
    """e of the task that learns; `tasks` has those of the tasks that have ended."""
    task: int = field(default=-1, init=False)
    tasks: dict[int, Weights] = field(default_factory=dict, init=False)
    used: list[Tensor] = field(default_factory=list, init=False)
    free: Weights = field(default_factory=dict, init=False)
    held: Weights = field(default_factory=dict, init=False)
    s: float = field(default=0.0, init=False)
    rows: int = field(default=0, init=False)
    """Rows since the last step, in this process; `seen` are those of this epoch before it, in all of them."""
    seen: int = field(default=0, init=False)
    count: int = field(default=1, init=False)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Draws e, or takes that of the task, and finds what is free."""
        layers, task = chain_of(bare(model)), experience.task
        if task is None:
            raise ValueError(f"HAT has gates for each task, but experience {experience.index} has none; use by_task")
        self.embedding.draw(layers.values(), mix(self.seed, task))
        self.embedding.put(self.tasks.get(task, {}))
        others = [opened(e, self.s_max) for other, e in self.tasks.items() if other != task]
        none = [torch.zeros_like(e).detach() for e in self.embedding.values()]
        self.used = [torch.stack(each).amax(0) for each in zip(none, *others, strict=True)]
        self.free, self.held, self.task = share_free(layers, self.used), snapshot(model), task
        self.s, self.rows, self.seen, self.count = 1 / self.s_max, 0, 0, len(experience.train)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Opens the gates as far as s has come, and adds what they cost."""
        if self.task < 0:
            return rest(model, batch)
        if not torch.is_grad_enabled():
            raise ValueError("HAT closes units that a task does not use, so it must learn a task, not remember it")
        self.rows += length(batch)
        a = [compensated(e, self.s, self.s_max) for e in self.embedding.values()]
        with gated(chain_of(bare(model)).values(), a):
            output = rest(bare(model), batch)  # compiled, it would not see the gates
        loss = output.loss if output.loss is None else output.loss + self.c * taken(a, self.used)
        return Output(loss, output.logits)

    def before_step(self, model: nn.Module) -> None:
        """Less flows into what earlier tasks use."""
        block(model, self.free)

    def after_step(self, model: nn.Module) -> None:
        """Puts back what is not free at all, and takes s one step further."""
        restore(model, self.held, {name: share > 0 for name, share in self.free.items()})
        for e in self.embedding.parameters():
            e.clamp_(-6, 6)
        rows, self.rows = total(self.rows, next(model.parameters()).device), 0
        self.seen = (self.seen + rows) % self.count
        self.s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * min(1, self.seen / max(1, self.count - rows))

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Keeps e."""
        self.tasks = self.tasks | {self.task: {place: e.detach().clone() for place, e in self.embedding.items()}}

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Each row is answered through the gates of its task; one that never came, without gates."""
        if self.task < 0:
            return objective(model, batch).logits
        layers, known = chain_of(bare(model)), self.tasks | {self.task: dict(self.embedding)}
        gates = {task: opened(e, self.s_max) for task, e in known.items()}
        return each_task(model, batch, objective, lambda t: gated_weights(layers, gates[t]) if t in gates else {})
