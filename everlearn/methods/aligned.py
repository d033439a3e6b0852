"""Rows without labels beside labelled ones: what methods that bring the two together have in common."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, by_label, move, tensor, unlabeled
from everlearn.methods.paced import Paced
from everlearn.models.apart import apart
from everlearn.models.features import tapped, vectors
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
        row, device = experience.train.take(torch.zeros(1, dtype=torch.int64)), next(model.parameters()).device
        with torch.no_grad(), evaluating(model), tapped(model, self.tap) as seen:
            logits = objective(model, move(unlabeled(row), device)).logits
        if not seen:
            raise ValueError("the last linear layer took no part in a prediction; name what to align with tap=")
        self.prepare(vectors(seen).shape[1], logits.shape[1], device)

    def sides(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """The positions of source and target; None where there is nothing to align, or nothing is learned."""
        if self.trade_off == 0 or not torch.is_grad_enabled():
            return None
        target, source = by_label(batch)
        return (source, target) if len(source) and len(target) else None

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the gap between the two sides."""
        sides = self.sides(batch)
        if sides is None:
            return rest(model, batch)
        with tapped(model, self.tap) as seen, nullcontext() if self.together else apart(model, sides):
            output = rest(model, batch)
        features, y = vectors(seen), tensor(batch, "y")
        if len(features) != len(output.logits):
            raise ValueError(
                f"{type(self).__name__} saw the features of {len(features)} rows of a batch of {len(y)}; what follows "
                "it in the chain must pass all rows through the model, and tap= name a layer that sees rows"
            )
        with torch.autocast(features.device.type, enabled=False):
            gap = self.gap(model, *_divided((features.float(), output.logits.float(), y), sides))
        return Output(self.total(output.loss, gap), output.logits)

    def total(self, loss: Tensor | None, gap: Tensor) -> Tensor:
        """Their weighted sum."""
        if loss is None and not gap.requires_grad:
            raise ValueError(f"{type(self).__name__} moves nothing: its features are frozen, or do not learn yet")
        return self.trade_off * gap if loss is None else loss + self.trade_off * gap


def _divided(columns: tuple[Tensor, ...], sides: tuple[Tensor, Tensor]) -> list[Side]:
    """Source and target. Where one has the first rows and the other those that follow, nothing is gathered."""
    for order in (1, -1):
        first, second = sides[::order]
        if int(first[-1]) < len(first):  # positions ascend
            lengths = len(first), len(second)  # more rows may have been joined after these
            parts = [torch.split(column, [*lengths, len(column) - sum(lengths)])[:2] for column in columns]
            return [Side(*side) for side in zip(*parts, strict=True)][::order]
    return [Side(*(column.index_select(0, rows) for column in columns)) for rows in sides]
