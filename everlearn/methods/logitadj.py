"""Logit adjustment: rare classes are asked for as loudly as frequent ones, by the frequencies of the stream so far.

Menon et al., Long-tail learning via logit adjustment, ICLR 2021. arXiv:2007.07314
On streams: Huang et al., Online Continual Learning via Logit Adjusted Softmax, TMLR 2024. arXiv:2311.06460
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length
from everlearn.method import Card, Method
from everlearn.methods.mir import labels
from everlearn.objective import Objective, Output


@dataclass
class LogitAdjust(Method):
    """L = CE(z + tau log pi, y): pi_k is the share of class k among the labelled rows so far, this batch included.

    Each row counts `fading` times as much as the one after it, so pi follows a stream whose classes come and go. The
    answers are z, without the adjustment: what they are right about is the mean of all classes, each counting alike.
    A class that never came does not compete, as in the limit of pi = 0. It is computed as what the adjustment adds to
    the objective's cross-entropy, the mean of log sum_k pi_k^tau e^(z_k) - tau log pi_y - log sum_k e^(z_k).
    Departures: fading counts, where Menon et al. know all rows and Huang et al. keep a window of batches.
    """

    card: ClassVar[Card] = Card("regularisation", "none", "a count for each class", ("classes",))

    tau: float = 1.0
    """With 0 it is fine-tuning."""
    fading: float = 0.999

    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64), init=False)
    """Of each class, the faded number of rows."""

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, which changes nothing, but is {self.tau}")
        if not 0 < self.fading <= 1:
            raise ValueError(f"fading must be above 0 and at most 1, which forgets nothing, but is {self.fading}")

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds what the adjustment adds."""
        output = rest(model, batch)
        if output.loss is None or self.tau == 0:
            return output
        if "task" in batch:
            raise ValueError(
                "logitadj weighs the classes that compete in one head, but heads by the column 'task' never compete; "
                "leave out the column if one head answers for all classes"
            )
        if len(output.logits) != length(batch):
            raise ValueError(
                f"{len(output.logits) - length(batch)} rows were joined behind logitadj, whose classes it cannot see; "
                "put it behind what joins them, as in er+logitadj"
            )
        z = output.logits.float()
        y = labels(batch, z, "logitadj")
        known = y != UNLABELED
        self._count(y[known], z.shape[1])
        prior = self.tau * (self.counts / self.counts.sum()).log().to(z)
        z, y = z[known], y[known]
        added = (z + prior).logsumexp(1) - prior[y] - z.logsumexp(1)
        return Output(output.loss + added.mean(), output.logits)

    def _count(self, y: Tensor, classes: int) -> None:
        """Row by row: what was counted fades, and the class of the row counts 1."""
        age = torch.arange(len(y) - 1, -1, -1, dtype=torch.float64, device=y.device)
        before = F.pad(self.counts.to(y.device), (0, max(0, classes - len(self.counts))))[:classes]
        self.counts = (before * self.fading ** len(y)).index_add(0, y, self.fading**age)
