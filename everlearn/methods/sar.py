"""SAR: TENT on reliable rows, towards weights around which the model stays sure, and back where it falls asleep.

Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023. arXiv:2302.12400
"""

from dataclasses import dataclass, field
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from everlearn.batch import Batch
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.norms import affine, by_batch, moving
from everlearn.models.spread import entropies
from everlearn.models.views import bare, trainable
from everlearn.objective import Objective, Output


@dataclass
class SAR(AtTestTime):
    """L = mean over S of H(x; w + e), with e = rho g / ||g|| and g the gradient of the mean over S of H(x; w).

    S are the rows with H(x) < E_0 = E0 ln C, at w and then at w + e; w are scales and shifts of the norms, but for the
    last `skip` of them. e is a constant to the gradient, which is therefore the one at w + e: the optimizer's step,
    whatever it is, then moves w by it. w0 comes back when a moving average of the mean of H(x; w + e) over the first S
    falls below e_m ln C. Departures: e_m is relative to ln C (0.03 is the paper's 0.2 for 1,000 classes); which norms
    are the last is said by a share, not by names; the running statistics notice the first pass only; the alarm.
    """

    card: ClassVar[Card] = Card("test time", "1 forward, 1 backward", "as tent", ("normalisations",))

    E0: float = 0.4
    rho: float = 0.05
    e_m: float = 0.03
    skip: float = 0.2

    ema: Tensor = field(default_factory=lambda: torch.full((), torch.nan), init=False)
    """The moving average; NaN before the first of it."""

    def scope(self, model: nn.Module) -> list[str]:
        """Without the last norms."""
        return [name for name in super().scope(model) if name in affine(model, self.skip)]

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """To be sure, and around these weights, too."""
        logits = look(model, target).logits
        h = entropies(logits)
        edge = self.E0 * log(logits.shape[-1])
        reliable = h < edge
        if not bool(reliable.any()):
            return Output(None, logits)
        weights = {name: weight for name, weight in trainable(model).items() if name in self.names}
        slopes = torch.autograd.grad(h[reliable].mean(), list(weights.values()), materialize_grads=True)
        length = torch.stack([slope.float().norm() for slope in slopes]).norm()
        reach = self.rho / (length + 1e-12)
        away = {n: w + (reach * slope).to(w) for (n, w), slope in zip(weights.items(), slopes, strict=True)}

        def beside(*arguments: Any, **named: Any) -> Any:
            return functional_call(bare(model), away, arguments, named)

        with by_batch(list(moving(model).values()), track=False):
            again = entropies(look(beside, target).logits)[reliable]
        now, still = again.detach().mean(), again.detach() < edge
        before = self.ema.to(now)
        self.ema = torch.where(before.isnan(), now, 0.9 * before + 0.1 * now)
        return Output(again[still].mean() if bool(still.any()) else None, logits)

    def fell(self) -> Tensor:
        """Or asleep: sure of everything."""
        asleep = self.ema < self.e_m * log(len(self.spread.sums))
        return super().fell() | asleep

    def restore(self, model: nn.Module, where: Tensor) -> None:
        """Starts the average anew, too."""
        super().restore(model, where)
        self.ema = self.ema.masked_fill(where, torch.nan)
