"""Batch normalisation of the rows of a batch by the side that they are on: source or target, each by itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from everlearn.models.norms import forwarding
from everlearn.models.views import bare


class _Apart:
    """What stands in for the `forward` of a batch normalisation."""

    def __init__(self, norm: nn.Module, sides: Sequence[Tensor]) -> None:
        self.norm, self.forward = norm, norm.forward
        self.sides, self.back = sides, torch.cat(list(sides)).argsort()

    def __call__(self, x: Tensor) -> Tensor:
        if not self.norm.training:  # one row has nothing to do with another
            answer: Tensor = self.forward(x)
            return answer
        if len(x) != len(self.back):
            raise ValueError(
                f"a batch normalisation was given {len(x)} rows of a batch of {len(self.back)}, so it is not known on "
                "which side each of them is; put the method that joins rows before this one, or use together=True"
            )
        if x.numel() // x.shape[1] > len(x) or min(map(len, self.sides)) > 1:  # places of one row are a sample, too
            return torch.cat([self.forward(x[rows]) for rows in self.sides])[self.back]
        raise ValueError(
            "a batch normalisation was given a side of a single row, and one row is no sample; take a batch_size and a "
            "reference_size that leave none, or drop_last, or use together=True"
        )


@contextmanager
def apart(model: nn.Module, sides: Sequence[Tensor]) -> Iterator[None]:
    """In the block, batch normalisations in train mode normalise the rows at each of `sides` by themselves.

    `sides` are positions, each row of the batch on one side. Running statistics see one side after the other.
    """
    norms = [m for m in bare(model).modules() if isinstance(m, _BatchNorm)]
    whole = [norm for norm in norms if not isinstance(vars(norm).get("forward"), _Apart)]
    with forwarding(whole, lambda norm: _Apart(norm, sides)):  # the others a method further out has taken apart
        yield
