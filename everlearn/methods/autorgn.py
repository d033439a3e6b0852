"""Auto-RGN: each tensor learns at a rate in proportion to how large its gradient is beside it.

Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, ICLR 2023. arXiv:2210.11466
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.border import positive
from everlearn.method import Card, Method
from everlearn.models.views import Weights, trainable
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class AutoRGN(Method):
    """r_i = mean over the last `batches` steps of ||g_i|| / ||w_i||, and lr_i = lr * r_i / max_j r_j.

    After the optimizer's step from w to w', w becomes w + (r_i / max r) (w' - w): the same, exactly, for each optimizer
    whose step is in proportion to its learning rate, decoupled weight decay included (SGD, Adam, AdamW, ...).
    Departures: the paper measures r with five batches before each epoch, and makes a new optimizer then; here it is of
    the gradients of the last steps, at no pass of their own, and the optimizer stays. A bias has the share of the
    matrix of its layer, since one that is zero has no relative gradient. As in the paper, normalisations do not learn,
    unless `norms`. A matrix that is all zero has the full rate, and no part in the maximum.
    """

    card: ClassVar[Card] = Card("tuning", "none", "nothing; while it learns, norms of the last gradients")

    batches: int = 5
    """How many steps r is a mean over."""
    norms: bool = False
    """Whether weights of one dimension that belong to no matrix learn, at the full rate."""

    names: list[str] = field(default_factory=list, init=False)
    """The tensors of two dimensions or more."""
    ratios: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    """||g|| / ||w|| in the last steps (rows), by tensor (columns)."""
    before: Weights = field(default_factory=dict, init=False)
    """The weights from `before_step` to `after_step`."""

    def __post_init__(self) -> None:
        positive(batches=self.batches)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """What is measured is of this experience."""
        self.names = []

    def before_step(self, model: nn.Module) -> None:
        """Measures; clipping, which comes later, would change all ratios alike."""
        weights = trainable(model)
        names = [name for name, weight in weights.items() if weight.dim() > 1]
        sizes = torch.stack(_sizes([weights[name].detach() for name in names])) if names else torch.zeros(0)
        if names != self.names:
            self.names, self.ratios = names, sizes.new_zeros(0, len(names))
        grads = [grad if (grad := weights[name].grad) is not None else weights[name].new_zeros(1) for name in names]
        ratio = torch.stack(_sizes(grads)) / sizes if names else sizes
        self.ratios = torch.cat([self.ratios, ratio[None]])[-self.batches :]
        moving = {name: weight for name, weight in weights.items() if weight.grad is not None}
        self.before = {name: weight.detach().clone() for name, weight in moving.items()}

    def after_step(self, model: nn.Module) -> None:
        """Makes each step as long as it should be."""
        shares, weights = self.shares(), trainable(model)
        for name, before in self.before.items():
            if name in shares:
                weight = weights[name]
                weight.copy_(torch.lerp(before, weight, shares[name].to(weight.dtype)))
        self.before = {}

    def shares(self) -> Weights:
        """r_i / max r for each weight that moves at less than the full rate."""
        mean = self.ratios.where(self.ratios.isfinite(), torch.nan).nanmean(0)  # a gradient of fp16 may have overflowed
        known = mean.isfinite()
        largest = mean.where(known, 0).max() if len(mean) else mean.new_zeros(())
        share = (mean / largest).where(known & (largest > 0), 1)
        by_tensor = dict(zip(self.names, share, strict=True))
        of_layer = {name.rpartition(".")[0]: share for name, share in reversed(by_tensor.items())}
        still = {} if self.norms else dict.fromkeys(self.before, mean.new_zeros(()))
        layers = {n: of_layer[layer] for n in self.before if (layer := n.rpartition(".")[0]) in of_layer}
        return still | layers | by_tensor


def _sizes(tensors: list[Tensor]) -> list[Tensor]:
    """The norm of each, in float32 at least."""
    wide = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
    return list(torch._foreach_norm(wide))  # noqa: SLF001
