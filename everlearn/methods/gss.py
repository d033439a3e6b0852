"""Gradient-based sample selection: keep the rows whose gradients point in different directions.

Aljundi et al., Gradient Based Sample Selection for Online Continual Learning, NeurIPS 2019. arXiv:1903.08671
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import ANSWERS, UNLABELED, Batch, length, move, take, tensor, unlabeled
from everlearn.border import positive
from everlearn.memory import Diverse
from everlearn.method import Card
from everlearn.methods.mir import labels
from everlearn.methods.replay import Replay
from everlearn.models.alike import alike
from everlearn.objective import Objective, Viewed
from everlearn.streams.experience import Experience


@dataclass
class GSS(Replay):
    """As `Replay`, from a memory (GSS-greedy) in which a new row of the gradient g, with the score

    c = 1 + max_j cos(g, g_j) over the gradients g_j of `n` batches of `rows` random old rows,

    takes the place of an old one of the score C, if c < 1: one drawn with a probability in proportion to C - min C, and
    with probability C / (C + c). While there is room, all enter; the first, which meet nobody, with the score 1.

    Batches, and the draw by C - min C, are those of the authors' code: the paper has single rows (`rows=1`) and a draw
    by C. Departures from both: c < 1 is asked of each row, not of a batch; scores are of the weights before the step,
    of rows without augmentation; the rows of a batch challenge different rows; later epochs offer no row again.
    """  # noqa: D400, D415 (an equation is in it)

    card: ClassVar[Card] = Card("replay", "1 backward a new row, `n` over old ones", "rows, scores", ("classes",))

    memory: Diverse
    n: int = 10
    """Gradients that the gradient of a new row is compared with."""
    rows: int = 10
    """Old rows in each of them."""

    coming: int | None = field(default=None, init=False)
    """Rows that the experience has yet to bring for the first time; None between two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(n=self.n, rows=self.rows)
        given: object = self.memory
        if not isinstance(given, Diverse):
            kind = type(given).__name__
            raise ValueError(f"gss says which rows are kept, but a {kind} does so itself; take Diverse")  # noqa: TRY004

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts."""
        super().begin(model, experience, objective)
        self.coming = len(experience.train)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """From here, all that is observed comes for the first time."""
        self.coming = None

    def draw(self, model: nn.Module, batch: Batch, objective: Objective) -> Batch:
        """Random ones, without their scores."""
        return _plain(self.memory.sample(self.count))

    def keep(self, model: nn.Module, batch: Batch, objective: Objective) -> None:
        """Offers the labelled rows to the memory, with their scores."""
        if self.coming == 0 or not any(name in batch for name in ANSWERS):
            return
        if self.coming is not None:
            self.coming = max(0, self.coming - length(batch))
        batch = take(batch, tensor(batch, "y") != UNLABELED) if "y" in batch else batch
        if length(batch):
            self.memory.add(batch | {"score": self.scores(model, batch, objective).cpu()})

    def scores(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """How much the gradient of each row is like those of old rows: from 0, opposite, to 2, the same."""
        batches = min(self.n, max(1, len(self.memory) // self.rows))
        old = _plain(self.memory.sample(batches * self.rows))
        if not old:
            return torch.ones(length(batch))
        objective = replace(objective, key=None) if isinstance(objective, Viewed) else objective
        old = move(old, next(model.parameters()).device)
        loss = partial(_loss, objective=objective)
        return 1 + alike(model, batch, old, loss, length(old) // batches).amax(1).clamp(-1, 1)


def _plain(rows: Batch) -> Batch:
    return {name: column for name, column in rows.items() if name != "score"}


def _loss(model: Callable[..., Any], rows: Batch, objective: Objective) -> Tensor:
    logits = objective(model, unlabeled(rows)).logits
    return F.cross_entropy(logits.float(), labels(rows, logits, "gss"))
