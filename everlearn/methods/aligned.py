"""Rows without labels beside labelled ones: what methods that bring the two together have in common."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everlearn.batch import UNLABELED, Batch, length, move, take, tensor, unlabeled
from everlearn.methods.paced import Paced
from everlearn.models.features import tapped
from everlearn.models.views import evaluating
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


class Side(NamedTuple):
    """What the model makes of some rows, in float32."""

    features: Tensor
    """(rows, width)."""
    logits: Tensor
    """(rows, classes)."""
    y: Tensor
    """Their labels, (rows,); `UNLABELED` in the target."""


@dataclass
class Aligned(Paced):
    """L = L(labelled rows) + trade_off * gap(source, target).

    The labelled rows of a batch, of the experience's reference or of a replay memory, are the source; the rows without
    a label are the target. There may be any number of each; where one side is missing there is no gap.
    """

    trade_off: float = field(default=1.0, kw_only=True)
    tap: str | None = field(default=None, kw_only=True)
    """The layer whose output is aligned; None: what the head reads."""
    together: bool = field(default=True, kw_only=True)
    """Whether source and target are one batch to the model; else batch normalisation sees each side by itself."""

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """What is to become small, a scalar."""
        raise NotImplementedError

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """Makes what the method has of its own, for features of that width."""

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks how wide the features are."""
        super().begin(model, experience, objective)
        row = unlabeled(experience.train.take(torch.zeros(1, dtype=torch.int64)))
        device = next(model.parameters()).device
        with torch.no_grad(), evaluating(model), tapped(model, self.tap) as seen:
            logits = objective(model, move(row, device)).logits
        self.prepare(seen[0].flatten(1).shape[1], logits.shape[1], device)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the gap between the two sides."""
        known = tensor(batch, "y") != UNLABELED if "y" in batch else torch.zeros(length(batch), dtype=torch.bool)
        mine, theirs = known.nonzero().flatten(), (~known).nonzero().flatten()
        if self.trade_off == 0 or not len(mine) or not len(theirs):
            return rest(model, batch)
        with tapped(model, self.tap) as seen:
            if self.together:
                output = rest(model, batch)
                features, logits = _used(seen), output.logits
            else:
                output = rest(model, take(batch, mine))
                features, logits = _used(seen)[: len(mine)], output.logits[: len(mine)]
                before = len(seen)
                other = objective(model, unlabeled(take(batch, theirs))).logits
                back = torch.cat([mine, theirs]).argsort()
                features = torch.cat([features, seen[before]])[back]
                logits = torch.cat([logits, other])[back]
        with torch.autocast(features.device.type, enabled=False):
            features, said, y = features.flatten(1).float(), logits.float(), tensor(batch, "y")
            gap = self.gap(model, *(Side(features[rows], said[rows], y[rows]) for rows in (mine, theirs)))
        loss = self.trade_off * gap if output.loss is None else output.loss + self.trade_off * gap
        return Output(loss, logits)


def _used(seen: list[Tensor]) -> Tensor:
    """The features of the pass that learns: a teacher may have passed through the same layers."""
    return next((features for features in seen if features.requires_grad), seen[0])
