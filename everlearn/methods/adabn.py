"""AdaBN: normalise by the statistics of the rows that come, and change nothing else.

Li et al., Revisiting Batch Normalization for Practical Domain Adaptation, 2016. arXiv:1603.04779
With N: Schneider et al., Improving Robustness against Common Corruptions, NeurIPS 2020. arXiv:2006.16971
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from everlearn.batch import Batch, length
from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.norms import moving
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class AdaBN(AtTestTime):
    """mu = N / (N + n) mu_source + n / (N + n) mu_target, and so for the variances; no weight learns.

    mu_target is of the n rows without a label of this experience, or of all since w0 where there are no experiences;
    the variances of batches and that of their means add up (Chan, Golub and LeVeque, 1983). It cannot collapse. The
    answers about a batch come from its own statistics, those of `predict` from the above.
    """

    card: ClassVar[Card] = Card(
        "test time", "none, and no backward pass", "running statistics", ("batch normalisations",)
    )

    N: int = 0
    """How many rows the statistics of the source count for."""
    window: int | None = None
    """How many rows a statistic is of, at most: older ones fade; None for all of them."""

    rows: int = field(default=0, init=False)
    target: Weights = field(default_factory=dict, init=False)
    """Running means and variances of the rows so far."""

    def __post_init__(self) -> None:
        positive(window=1 if self.window is None else self.window)

    def scope(self, model: nn.Module) -> list[str]:
        """None."""
        if any(norm.running_mean is not None for norm in moving(model).values()):
            return []
        raise ValueError("the model has no batch norm whose running statistics could follow; use tent, sar or cotta")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Other rows, other statistics."""
        super().begin(model, experience, objective)
        self.rows, self.target = 0, {}

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """Takes the statistics of the batch up."""
        norms = [norm for norm in moving(model).values() if norm.running_mean is not None]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # so that what is running afterwards is that of this batch
        try:
            logits = look(model, target).logits
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        self.rows += length(target)
        share = length(target) / max(length(target), min(self.rows, self.window or self.rows))
        now = bare(model).state_dict()
        for name in [name for name in self.source if name.endswith("running_mean")]:
            mean, var = now[name], now[of_var := name.removesuffix("mean") + "var"]
            old_mean, old_var = self.target.get(name, mean), self.target.get(of_var, var)
            between = share * (1 - share) * (mean - old_mean).square()
            self.target[name] = old_mean.lerp(mean, share)
            self.target[of_var] = old_var.lerp(var, share) + between
            for part in (name, of_var):
                now[part].copy_(self.source[part].lerp(self.target[part], self.rows / (self.N + self.rows)))
        return Output(None, logits)
