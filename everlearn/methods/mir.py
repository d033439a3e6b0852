"""Maximally interfered retrieval: replay the rows that the coming step would hurt most.

Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019. arXiv:1908.04742
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length, take, tensor
from everlearn.method import Card
from everlearn.methods.replay import Replay
from everlearn.models.views import Weights, bare, evaluating, recall, trainable
from everlearn.objective import Objective


@dataclass
class MIR(Replay):
    """As `Replay`, with the `count` of `subsample` random old rows whose loss would rise most:

    s(x') = l(f(x'; w - virtual_lr * grad L(batch; w)), y') - l(f(x'; w), y').

    The step is one of plain gradient descent on the new rows alone, whatever the optimizer is. Departure: gradient and
    scores are taken in eval mode, so that looking ahead leaves no trace in running statistics, and a row's score does
    not depend on the other candidates.
    """  # noqa: D400, D415 (an equation ends it)

    card: ClassVar[Card] = Card(
        "replay", "1 forward, 1 backward over new rows; 2 forward over `subsample` old ones", "rows", ("classes",)
    )

    subsample: int = 50
    """Candidates: old rows that are looked at."""
    virtual_lr: float = 0.05
    """The learning rate of the step that is looked ahead to; the paper takes that of the optimizer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subsample < self.count:
            raise ValueError(
                f"mir looks at {self.subsample} rows to choose {self.count}; subsample must not be less than count"
            )

    def draw(self, model: nn.Module, batch: Batch, objective: Objective) -> Batch:
        """Those candidates that would be hurt most. A batch without labels hurts none: then any."""
        candidates = self.memory.sample(self.subsample if self.count else 0)
        if length(candidates) <= self.count:
            return candidates
        ahead = look_ahead(bare(model), batch, objective, self.virtual_lr)
        before, after = (recall(model, weights, _losses, candidates, objective) for weights in ({}, ahead))
        return take(candidates, (after - before).topk(self.count).indices)


@torch.enable_grad()
def look_ahead(model: nn.Module, batch: Batch, objective: Objective, lr: float) -> Weights:
    """The weights after a step of gradient descent on `batch` in eval mode; {} if it has no labels."""
    with evaluating(model):
        loss = objective(model, batch).loss
        if loss is None:
            return {}
        weights = trainable(model)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: (weight - lr * g).detach() for (name, weight), g in pairs if g is not None}


def _losses(model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
    logits = objective(model, batch).logits
    return F.cross_entropy(logits.float(), labels(batch, logits, "mir"), ignore_index=UNLABELED, reduction="none")


def labels(batch: Batch, logits: Tensor, method: str) -> Tensor:
    """The column "y", on the device of the logits; a ValueError unless both are those of a classification."""
    y = tensor(batch, "y").to(logits.device) if "y" in batch else None
    if y is None or y.dtype != torch.int64 or logits.dim() != 2:
        answers = "no column 'y'" if y is None else f"{y.dtype} labels"
        raise ValueError(
            f"{method} classifies: it needs logits (rows, classes) and a column 'y' of int64 labels, but there are "
            f"logits of shape {tuple(logits.shape)} and {answers}; take er"
        )
    return y
