"""TENT: normalise by the rows that come, and learn scales and shifts that make the model sure about them.

Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021. arXiv:2006.10726
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from everlearn.batch import Batch
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.spread import entropies
from everlearn.objective import Objective, Output


@dataclass
class TENT(AtTestTime):
    """L = mean H(softmax f(x)) over the rows without a label, of which scales and shifts of the norms learn.

    Batch norms normalise by the batch. Departures: running statistics follow the rows, and are what `predict` uses, so
    that an answer does not depend on other questions (the paper has none, and answers with `observe`); an alarm.
    """

    card: ClassVar[Card] = Card("test time", "none", "scales, shifts and statistics of norms", ("normalisations",))

    episodic: bool = False
    """Whether each batch starts from w0: what is learned from one lasts until the next."""

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """To be sure."""
        if self.episodic:
            with torch.no_grad():
                self.restore(model, torch.ones((), dtype=torch.bool, device=next(model.parameters()).device))
        logits = look(model, target).logits
        return Output(entropies(logits).mean(), logits)
