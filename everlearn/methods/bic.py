"""BiC: replay and distillation, and then two numbers that take back the head start of the newest classes.

Wu et al., Large Scale Incremental Learning, CVPR 2019. arXiv:1905.13260
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from everlearn.batch import UNLABELED, Batch, join, length, take, tensor, unlabeled
from everlearn.data.hashing import Draws
from everlearn.data.order import batches
from everlearn.memory import Diverse, Memory, Ring
from everlearn.method import Card, Method
from everlearn.methods.lwf import distill
from everlearn.methods.lwfmc import classes_of
from everlearn.models.correction import corrected, correction
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class BiC(Method):
    """L = (1 - lambda) L_new+old + lambda KL(softmax(q / T) || softmax(z / T)) over n old classes, lambda = n / (n + m)
    with m new classes, the logits z, and those q of the teacher, corrected.

    At an end alpha and beta minimise the cross-entropy of alpha z_c + beta for new classes c and z_c for old ones, on
    rows held back from training: a share `validation` of those in the memory, by a hash of their ids. Departures:
    random exemplars, `count` in each batch, not herded ones; each class counts alike in that cross-entropy; `decay`
    holds (alpha, beta) to (1, 0), since few rows may have no optimum. KL is the paper's term but for a constant.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card("replay", "1 forward of the teacher", "rows, the weights", ("classes",))

    memory: Memory
    count: int = 32
    """Old rows in each draw; those held back are left out of it."""
    T: float = 2.0
    validation: float = 0.1
    decay: float = 0.1
    seed: int = 0

    teacher: Weights = field(default_factory=dict, init=False)
    learned: list[int] = field(default_factory=list, init=False)
    new: list[int] = field(default_factory=list, init=False)
    """The classes of the last experience that began."""
    newest: list[int] = field(default_factory=list, init=False)
    """Those of the last one that ended, which alpha and beta are about."""
    alpha: float = field(default=1.0, init=False)
    beta: float = field(default=0.0, init=False)
    moving: bool = field(default=False, init=False)
    """Whether it has learned since: the weights learn to answer as the corrected teacher does, without correction."""

    def __post_init__(self) -> None:
        if isinstance(self.memory, Ring | Diverse):
            kind = type(self.memory).__name__
            raise ValueError(f"a {kind} lets in what it turned away; take a Balanced or a Memory")  # noqa: TRY004

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks which classes have come."""
        self.new = classes_of(experience)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Joins old rows, takes the labels from rows that are held back, and adds the distillation."""
        if "y" not in batch:
            return rest(model, batch)
        self.moving, old = True, self.memory.sample(self.count)
        self.memory.add(batch)
        y, ids = tensor(batch, "y"), tensor(batch, "id")
        back = self.held(ids) & self.memory.holds(ids)
        rows = batch | {"y": y.masked_fill(back.to(y.device), UNLABELED)}  # they keep their places, and teach nothing
        rows = join(rows, take(old, ~self.held(tensor(old, "id")))) if old else rows
        output, told = rest(model, rows), tensor(rows, "y") != UNLABELED
        before = [c for c in self.learned if c not in self.new]
        output = output if told.any() else Output(None, output.logits)
        if output.loss is None or not before:
            return output
        asked = recall(model, self.teacher, objective, unlabeled(rows)).logits
        now, then = output.logits[: length(rows)][told], corrected(asked[told], self.newest, self.alpha, self.beta)
        lesson = distill(now[:, before], then[:, before], self.T) / self.T**2  # a factor that the paper does not have
        share = len(before) / len({*before, *self.new})
        return Output((1 - share) * output.loss + share * lesson, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Finds alpha and beta, and the model becomes its own teacher."""
        self.newest, self.learned = list(self.new), sorted({*self.learned, *self.new})
        rows = batches(self.memory, self.held(self.memory.ids).nonzero().flatten(), 128)
        self.alpha, self.beta = correction(model, rows, objective, self.learned, self.newest, decay=self.decay)
        self.teacher, self.moving = snapshot(model), False

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """The logits, corrected unless the weights are moving."""
        logits = objective(model, batch).logits
        return logits if self.moving else corrected(logits, self.newest, self.alpha, self.beta)

    def held(self, ids: Tensor) -> Tensor:
        """Which of these rows are held back if the memory keeps them, (n,) bool: a function of their ids alone."""
        return Draws.of(self.seed, ids.cpu()).uniform() < self.validation
