"""FixMatch: what is surely said of a row without a label is learned from a strongly changed view of it.

Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, NeurIPS 2020.
arXiv:2001.07685
"""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length, take, tensor, unlabeled
from everlearn.data.transforms import Colour, Crop, Rotate, View
from everlearn.method import Card, Method
from everlearn.objective import Objective, Output
from everlearn.randomness import mix


@runtime_checkable
class Change(Protocol):
    """What makes other rows of raw rows, as a function of a key: a `View` that augments, or your own."""

    def __call__(self, batch: Batch, key: int | None, /) -> Batch:
        """The changed rows, in the same order."""
        ...


STRONG = View(augment=(Crop(4), Rotate(30), Colour(0.8)))
"""A strong view of images, of any number of channels."""


@dataclass
class FixMatch(Method):
    """L = L(labelled rows) + trade_off mean_T 1[max_c p_c >= threshold] CE(model(strong(x)), argmax_c p_c).

    p = softmax(model(x)) of the rows without labels, as the learner's view shows them in this step, in the pass that
    learns, and a constant to the gradient. `strong` changes raw rows; the learner's view looks at what comes out.
    Departure: the strong views are a pass of their own, with batch statistics of their own.
    """

    card: ClassVar[Card] = Card("adaptation", "1 forward, 1 backward over strong views of unlabelled rows", "nothing")

    threshold: float = 0.95
    trade_off: float = 1.0
    strong: Change | None = None
    """From raw rows and a key to changed ones; None: `STRONG`, which is for images."""
    seed: int = 0

    count: int = field(default=0, init=False)
    """Steps so far: the key of the next strong view."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a probability, in [0, 1], but is {self.threshold!r}")

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds what is sure about the rows without labels."""
        output = rest(model, batch)
        y = tensor(batch, "y") if "y" in batch else torch.full((length(batch),), UNLABELED)
        rows = (y == UNLABELED).nonzero().flatten()
        if self.trade_off == 0 or not len(rows):
            return output
        changed = (self.strong or STRONG)(unlabeled(take(batch, rows)), mix(self.seed, self.count))
        seen = objective(model, changed).logits
        added = self.trade_off * consistency(seen.float(), output.logits[rows.to(seen.device)].float(), self.threshold)
        return Output(added if output.loss is None else output.loss + added, output.logits)

    def after_step(self, model: nn.Module) -> None:
        """The next step has another key."""
        self.count += 1


def consistency(strong: Tensor, weak: Tensor, threshold: float) -> Tensor:
    """The cross-entropy of the strong views with the answers to the weak ones, where these are sure; else 0."""
    sure, answer = weak.detach().softmax(1).max(1)
    return (F.cross_entropy(strong, answer, reduction="none") * (sure >= threshold)).mean()
