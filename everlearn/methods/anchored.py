"""Weights held near an anchor, each by its importance: what EWC, MAS, RWalk, SI and the L2 anchor have in common."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from torch import nn

from everlearn.batch import Batch
from everlearn.border import one_of
from everlearn.method import Method
from everlearn.models.quadratic import fitted, largest, pull, settle
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Anchored(Method):
    """L = L_new + strength / 2 * sum_i importance_i (w_i - anchor_i)^2; a method says what the importance is.

    A gradient step on such a penalty is stable only while learning rate x curvature < 2, where the curvature is the
    strength times the largest importance; the proximal step, in place of it, is stable at any strength.
    """

    step: Literal["gradient", "proximal"] = field(default="gradient", kw_only=True)
    """The penalty is a part of the loss; or it is left out of the loss and solved exactly after each step of the
    optimizer, w <- (w + eta strength importance anchor) / (1 + eta strength importance)."""
    eta: float = field(default=0.0, kw_only=True)
    """The learning rate, where the method is to know it: the proximal step needs it, and an experience whose gradient
    steps cannot be stable under plain SGD with that rate is refused when it begins."""

    anchor: Weights = field(default_factory=dict, init=False)
    importance: Weights = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        one_of("step", self.step, ("gradient", "proximal"))
        if self.step == "proximal" and not self.eta > 0:
            raise ValueError(
                f"the proximal step needs the learning rate, but eta is {self.eta!r}; set eta to the optimizer's"
            )

    @property
    def strength(self) -> float:
        """The factor of the halved sum of squares."""
        raise NotImplementedError

    @property
    def curvature(self) -> float:
        """The largest second derivative of the penalty, along any one weight."""
        return self.strength * largest(self.importance)

    def stable_lr(self) -> float:
        """The learning rate below which gradient steps of plain SGD on the penalty are stable: 2 / curvature."""
        return 2 / self.curvature if self.curvature > 0 else inf

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Refuses gradient steps that are known to be unstable."""
        if self.step == "gradient" and self.eta * self.curvature >= 2:
            raise ValueError(
                "the explicit step is stable only while learning rate x curvature < 2, but "
                f"{self.eta:g} x {self.curvature:g} is {self.eta * self.curvature:g}; take a learning rate below "
                f'{self.stable_lr():.3g}, a smaller strength, or step="proximal", which is stable at any strength'
            )

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the penalty, unless a proximal step sees to it."""
        output = rest(model, batch)
        if not self.anchor or output.loss is None:
            return output
        weights = trainable(model)
        self.anchor, self.importance = fitted(self.anchor, weights), fitted(self.importance, weights, fill=0)
        if self.strength == 0 or self.step == "proximal":
            return output
        return Output(output.loss + pull(weights, self.anchor, self.importance, self.strength), output.logits)

    def after_step(self, model: nn.Module) -> None:
        """Takes the proximal step."""
        if self.step == "proximal":
            settle(trainable(model), self.anchor, self.importance, self.eta * self.strength)

    def hold(self, model: nn.Module) -> None:
        """Makes the present weights the anchor; what is frozen now keeps the one it had."""
        self.anchor = self.anchor | {name: weight.detach().clone() for name, weight in trainable(model).items()}
