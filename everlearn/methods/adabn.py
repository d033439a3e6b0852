"""AdaBN: normalise by the statistics of the rows that come, and change nothing else.

Li et al., Revisiting Batch Normalization for Practical Domain Adaptation, 2016. arXiv:1603.04779
With N: Schneider et al., Improving Robustness against Common Corruptions, NeurIPS 2020. arXiv:2006.16971
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, length
from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.norms import forwarding, moving
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class AdaBN(AtTestTime):
    """mu = N / (N + n) mu_source + n / (N + n) mu_target, and so for the variances; no weight learns.

    mu_target is of the n rows without a label of this experience, or of all since w0 where there are no experiences;
    the variances of batches and that of their means add up (Chan, Golub and LeVeque, 1983). It cannot collapse. The
    answers about a batch come from its own statistics in the place of mu_target, those of `predict` from the above.
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
    """Means of the rows so far, and their mean squares about these, of each layer."""

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
        """Answers by the statistics of the batch, and takes them up."""
        rows, seen = length(target), dict[str, tuple[Tensor, Tensor, int]]()
        named = {f"{name}.".lstrip("."): norm for name, norm in moving(model).items()}
        names = {norm: name for name, norm in named.items() if f"{name}running_mean" in self.source}

        def answer(norm: Any, x: Tensor) -> Tensor:
            var, mean = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
            seen[name := names[norm]] = mean, var, x.numel() // x.shape[1]
            return F.batch_norm(x, *self._mixed(name, mean, var, rows), norm.weight, norm.bias, eps=norm.eps)

        with forwarding(list(names), lambda norm: partial(answer, norm)):
            logits = look(model, target).logits
        self.rows += rows
        share, now = rows / max(rows, min(self.rows, self.window or self.rows)), bare(model).state_dict()
        for name, (mean, var, count) in seen.items():
            of_mean, of_var = f"{name}running_mean", f"{name}running_var"
            old_mean, old_var = self.target.get(of_mean, mean), self.target.get(of_var, var)
            between = share * (1 - share) * (mean - old_mean).square()
            new_mean, new_var = old_mean.lerp(mean, share), old_var.lerp(var, share) + between
            self.target |= {of_mean: new_mean, of_var: new_var}
            unbiased = new_var * count / (count - share)  # there were count / share values in all
            for part, mixed in zip((of_mean, of_var), self._mixed(name, new_mean, unbiased, self.rows), strict=True):
                now[part].copy_(mixed)
            now[f"{name}num_batches_tracked"] += 1
        return Output(None, logits)

    def _mixed(self, name: str, mean: Tensor, var: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Those of so many rows, and those of the source."""
        of_mean, of_var = self.source[f"{name}running_mean"], self.source[f"{name}running_var"]
        weight = rows / (self.N + rows)
        return of_mean.lerp(mean.to(of_mean), weight), of_var.lerp(var.to(of_var), weight)
