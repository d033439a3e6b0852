"""Rivals: the classes that a row is told apart from while the head learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from everlearn.batch import ANSWERS, Batch, tensor
from everlearn.objective import Output


@contextmanager
def only_among(layer: nn.Module, classes: Tensor, batch: Batch) -> Iterator[Callable[[Output], Output]]:
    """In the block, `layer` answers -inf about all but `classes`, int64, for the rows that are of one of these.

    Rows of other classes (those of a memory) are told apart among all; so are all, where `classes` is empty or the
    batch has no answers. What is yielded gives an output its logits as they were before. The rows must be those of
    `batch`: a ValueError where the layer sees others.
    """
    name = next((name for name in ANSWERS if name in batch), None)
    if name is None or not len(classes):
        yield lambda output: output
        return
    y = tensor(batch, name)
    if y.dtype != torch.int64 or y.dim() != 1:
        raise ValueError(
            f"a class mask needs classes, int64 of shape (rows,), but {name!r} is {y.dtype}; use mask=False"
        )
    told = (y.unsqueeze(1) == classes).any(1)
    pairs: list[tuple[Tensor, Tensor]] = []

    def hide(_layer: nn.Module, _given: object, logits: Tensor) -> Tensor:
        if logits.dim() != 2 or len(logits) != len(y):
            raise ValueError(
                f"the head answers in the shape {tuple(logits.shape)} about a batch of {len(y)} rows, so it is not "
                "known which classes each row is told apart from; put the method that joins rows before this one, or "
                "use mask=False"
            )
        places = torch.arange(logits.shape[1], device=logits.device)
        others = (places.unsqueeze(1) != classes).all(1)
        pairs.append((logits.masked_fill(told.unsqueeze(1) & others, -torch.inf), logits))
        return pairs[-1][0]

    def whole(output: Output) -> Output:
        before = (logits for hidden, logits in pairs if hidden is output.logits)
        return Output(output.loss, next(before, output.logits))

    hook = layer.register_forward_hook(hide)
    try:
        yield whole
    finally:
        hook.remove()
