"""How many classes the answers of a model name, in effect, while it learns from them."""

from typing import Any

import torch
from torch import Tensor

WINDOW = 20
"""Rows for each class after which an older row weighs 1/e of the newest."""

LOWEST = -1e30
"""What stands for log 0, the logarithm of what a model rules out: as a factor of 0, it is 0."""


def entropies(logits: Tensor) -> Tensor:
    """H(softmax(logits)) of each row (or token), in nats and float32; a ValueError unless there are classes.

    >>> entropies(torch.zeros(1, 2))
    tensor([0.6931])
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"the entropy of a prediction needs logits of shape (rows, classes), but they are {tuple(logits.shape)}"
        )
    log_p = logits.float().flatten(0, -2).log_softmax(1)
    return -(log_p.exp() * log_p.clamp(min=LOWEST)).sum(1)


class Spread:
    """exp H(p), with p the mean prediction over the rows that came last, newer ones weighing more.

    A model that learns from its own answers collapses when they concentrate in few classes, whatever the rows are.
    Nothing here waits for the device.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(0)
        """Of the predictions, (classes)."""
        self.doubt = torch.zeros(())
        """The sum of their entropies."""
        self.rows = torch.zeros(())
        """The sum of the weights of the rows."""
        self.most = torch.zeros(())
        """The highest effective number of classes since the last restart."""
        self.low = torch.zeros((), dtype=torch.bool)
        self.alarms = torch.zeros((), dtype=torch.int64)
        """How often it fell."""

    @torch.no_grad()
    def note(self, logits: Tensor) -> None:
        """More answers, (rows, classes)."""
        p = logits.detach().float().flatten(0, -2).softmax(1)
        classes = p.shape[1]
        if len(self.sums) != classes:
            self.sums, self.doubt, self.rows, self.most = p.new_zeros(classes), *p.new_zeros(3)
        vars(self).update({name: value.to(p.device) for name, value in vars(self).items()})  # it may come from a file
        fade = (1 - 1 / (WINDOW * classes)) ** len(p)
        self.sums = fade * self.sums + p.sum(0)
        self.doubt = fade * self.doubt + entropies(logits.detach()).sum()
        self.rows = fade * self.rows + len(p)

    @property
    def classes(self) -> Tensor:
        """The effective number of classes, a scalar from 1 to their number."""
        p = self.sums / self.rows
        return (-(p * p.clamp(min=1e-30).log()).sum()).exp()

    @property
    def entropy(self) -> Tensor:
        """The mean entropy of the predictions, a scalar."""
        return self.doubt / self.rows

    def fell(self, share: float) -> Tensor:
        """Whether the number is below `share` of its highest, a bool scalar; each fall is one alarm.

        It is still so until the number has made good half of what was missing.
        """
        now = self.classes
        self.most = torch.maximum(self.most, now)
        low = now < torch.where(self.low, (1 + share) / 2, share) * self.most
        self.alarms, self.low = self.alarms + (low & ~self.low), low
        return low

    def restart(self, where: Tensor) -> None:
        """Forgets the answers if `where`, a bool scalar, says so; alarms stay counted."""
        keep = (~where).float()
        self.sums, self.doubt, self.rows, self.most = (
            value * keep for value in (self.sums, self.doubt, self.rows, self.most)
        )
        self.low = self.low & ~where

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Takes over what `state_dict` gave."""
        vars(self).update({name: value.clone() for name, value in state.items()})
