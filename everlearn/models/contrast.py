"""Supervised contrast: what rows are compared by, the loss of the comparison, and a second view of the same rows.

Khosla et al., Supervised Contrastive Learning, NeurIPS 2020. arXiv:2004.11362
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.batch import UNLABELED
from everlearn.data.transforms import View
from everlearn.objective import Objective, Viewed
from everlearn.randomness import seeded


class Projection(nn.Sequential):
    """A linear layer as wide as the features, ReLU, a linear layer: (rows, width) to (rows, outputs).

    It has no layers until `make` says how wide they are; loading a state makes those that the state has.
    """

    def make(self, width: int, outputs: int, seed: int) -> None:
        """Makes the layers, from generators of their own; a ValueError if there are some of another width."""
        if not len(self):
            with seeded(seed):
                self.extend([nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)])
        elif (known := self.get_parameter("0.weight").shape[1]) != width:
            raise ValueError(f"the projection is made for {known} features, but the head sees {width}")

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        first, last = (state.get(f"{prefix}{place}.weight") for place in (0, 2))
        if first is None or last is None:
            del self[:]
        elif not len(self):
            self.make(first.shape[1], len(last), 0)
            self.to(first)
        super()._load_from_state_dict(state, prefix, *rest)


def contrastive(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """The mean over rows i of -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) ).

    `z` is (rows, width), of length 1, and P(i) are the other rows with the class of i, `y`, (rows,). Rows without a
    label take no part; those that have no other of their class are compared with, but the mean leaves them out. If
    that leaves nothing, the loss is 0.

    >>> contrastive(torch.eye(3), torch.tensor([0, 0, 1]), 1.0)
    tensor(0.6931)
    """
    themselves = torch.eye(len(z), dtype=torch.bool, device=z.device)
    others = ~themselves & (y != UNLABELED)
    positives = others & (y == y[:, None])
    # A row that is compared with nothing is NaN here: the second mask takes it out, and the first its gradient.
    alike = (z @ z.T / temperature).masked_fill(~others, -torch.inf).log_softmax(1).masked_fill(~positives, 0)
    counts = positives.sum(1)
    return -(alike.sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def unaugmented(objective: Objective) -> Objective | None:
    """The objective on rows as they are, without augmentation; None where it does not augment."""
    if not isinstance(objective, Viewed) or objective.key is None:
        return None
    if isinstance(objective.view, View) and not objective.view.augment:
        return None
    return replace(objective, key=None)
