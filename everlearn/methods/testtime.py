"""Rows without labels, at test time: what methods that adapt to them by themselves have in common."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, by_label, take, unlabeled
from everlearn.border import adaptable
from everlearn.method import Method
from everlearn.models.norms import adapting, affine, copies, moving, statistics
from everlearn.models.resting import drop_gradients, restore
from everlearn.models.spread import Spread
from everlearn.models.views import Weights
from everlearn.objective import Objective, Output, Viewed
from everlearn.streams.experience import Experience


@dataclass
class AtTestTime(Method):
    """L = lesson(rows without a label) + L(labelled rows beside them), of which the weights in `scope` learn.

    The logits are those before the step: batch norms normalise by the rows without a label, and running statistics,
    which `predict` uses, follow; dropout is off, nothing is augmented. Rows that all have labels are learned plainly.
    w0 is what was there before the first row without a label; an experience with labels only leaves another.
    """

    alarm: float = field(default=0.6, kw_only=True)
    """Given when the answers name, in effect, less than this share of as many classes as they once did; 0: never."""
    reset: bool = field(default=True, kw_only=True)  # an alarm puts w0 and its running statistics back

    source: Weights = field(default_factory=dict, init=False)
    """w0 and its running statistics: of all that moves."""
    names: list[str] = field(default_factory=list, init=False)
    """The weights that learn in this step, if it is an adaptation."""
    met: bool = field(default=False, init=False)
    """Whether this experience had a row without a label."""
    spread: Spread = field(default_factory=Spread, init=False)
    resets: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64), init=False)

    def scope(self, model: nn.Module) -> list[str]:
        """The names of the weights that learn: the scales and shifts of the normalisation layers."""
        if names := affine(model):
            return names
        raise ValueError("the model has no norm with a scale or shift that could learn; cotta needs none")

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """What rows without a label teach `names`, and the answers about them."""
        raise NotImplementedError

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Nothing is known of its labels yet."""
        self.met = False

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """The lesson; what labelled rows add, they add under the running statistics."""
        self.names, (rows, known) = [], by_label(batch)
        if not len(rows) or not torch.is_grad_enabled():
            return rest(model, batch)
        adaptable(type(self).__name__, len(rows), norms := moving(model), last=rest is objective)
        self.met, self.names = True, self.scope(model)
        self.source = self.source or copies(model, [*self.names, *statistics(norms)])
        look = replace(objective, key=None) if isinstance(objective, Viewed) else objective
        with adapting(model, self.names, list(norms.values())):
            output = self.lesson(model, unlabeled(take(batch, rows)), look)
        self.spread.note(output.logits)
        if len(known):
            with adapting(model, self.names, ()):
                held = rest(model, take(batch, known))
            losses = [loss for loss in (output.loss, held.loss) if loss is not None and self.names]
            logits = torch.cat([output.logits, held.logits])[torch.cat([rows, known]).argsort()]
            output = Output(torch.stack(losses).sum() if losses else None, logits)
        if output.loss is None and self.names:  # no step follows, and answers may have collapsed all the same
            torch.no_grad()(self.restore)(model, self.fell() & self.reset)
        return output

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into what does not learn."""
        if self.names:
            drop_gradients(model, but=self.names)

    def fell(self) -> Tensor:
        """Whether the answers have collapsed, a bool scalar."""
        return self.spread.fell(self.alarm)

    def after_step(self, model: nn.Module) -> None:
        """Looks for a collapse."""
        if self.names:
            self.restore(model, self.fell() & self.reset)
            self.names = []

    def restore(self, model: nn.Module, where: Tensor) -> None:
        """Starts anew from w0 and its running statistics if `where`, a bool scalar, says so; under `no_grad`."""
        restore(model, self.source, dict.fromkeys(self.source, ~where))
        self.spread.restart(where)
        self.resets = self.resets.to(where.device) + where

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """What labels taught is what later adaptations start from."""
        self.source = self.source if self.met else {}
