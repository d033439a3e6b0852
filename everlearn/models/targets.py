"""Numbers to be predicted on one scale, by their mean and deviation so far."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from everlearn.batch import Batch, tensor
from everlearn.models.standardise import Standardise
from everlearn.objective import Output, regress

FAR = 10.0
"""Deviations that numbers to be learned are from their mean at most: the default rate is stable with some more."""


class Targets(Standardise):
    """z = (y - mean) / deviation of the numbers to be predicted: what a model with this as its last module answers.

    `objective` compares z with what it makes of the raw y of a batch: the squared error in units of the variance, and
    the gradients of training on standardised numbers. `answers` are those for people, in their units. As in
    `Standardise`, `update` is what counts, and nothing else: not `forward`, which hands z on. Until numbers have
    varied, z is 0, and the answer their mean. When they vary for the first time after n rows, they are up to sqrt(n)
    deviations from their mean, and no network survives that: the z that is learned is at most `FAR`.

    >>> targets = Targets()
    >>> counted = targets.update(torch.tensor([[100.0], [300.0]]))
    >>> targets.answers([0.0, 1.0])
    [200.0, 300.0]
    """

    def __init__(self) -> None:
        super().__init__(1, most=FAR)

    def forward(self, z: Tensor) -> Tensor:
        """As it is."""
        return z

    def objective(self, model: Callable[..., Any], batch: Batch) -> Output:
        """`regress` in units of the deviation; the logits are z."""
        if "y" in batch:
            z = (tensor(batch, "y") - self.mean) * self.factor
            batch = batch | {"y": torch.where(self.left > 0, z, z.clamp(-self.most, self.most))}
        return regress(model, batch)

    def answers(self, z: Sequence[float]) -> list[float]:
        """What z stands for: mean + z * deviation."""
        mean, factor = self.mean.item(), self.factor.item()
        deviation = 1 / factor if factor else 0.0
        return [mean + each * deviation for each in z]

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}mean" not in state:  # it is of a version that left numbers as they are, and so does this from now
            for name, value in self.named_buffers():
                value.fill_(name in {"factor", "left"})
            return
        super()._load_from_state_dict(state, prefix, *rest)

    def extra_repr(self) -> str:
        """Nothing."""
        return ""
