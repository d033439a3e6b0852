"""Batch spectral shrinkage: features along which a batch hardly varies do not transfer, so they are pressed to zero.

Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer Learning,
NeurIPS 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch, length
from everlearn.border import positive
from everlearn.method import Card, Method
from everlearn.models.features import with_features
from everlearn.objective import Objective, Output


@dataclass
class BSS(Method):
    """L = L_new + eta * sum_{i <= k} sigma_{-i}(F)^2, with sigma_{-i} the i-th smallest singular value of F.

    F, (rows, width), are the features that the head sees of the batch, and as they are: not centred. There are
    min(rows, width) singular values, and all of them count where k is larger. In float32, whatever the rest is in.
    """

    card: ClassVar[Card] = Card("tuning", "a singular value decomposition of rows x width", "nothing")

    eta: float = 0.001
    k: int = 1
    head: str | None = None
    """The linear layer that sees the features; None for the last one."""

    def __post_init__(self) -> None:
        positive(k=self.k)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the shrinkage."""
        if self.eta == 0:
            return rest(model, batch)
        output, features = with_features(model, batch, rest, self.head)
        if output.loss is None:
            return output
        with torch.autocast(features.device.type, enabled=False):
            own = features[: length(batch)].float()  # rows that the rest of the chain joined come behind
            smallest = torch.linalg.svdvals(own)[-self.k :]  # in descending order
        return Output(output.loss + self.eta * smallest.square().sum(), output.logits)
