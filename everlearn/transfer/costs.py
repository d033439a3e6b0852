"""What a base costs: the time that a row takes on this machine, and the bytes that its layers give out."""

import time
from statistics import median

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length
from everlearn.models.views import bare, device_of, evaluating
from everlearn.transfer.bases import Base


def latency(base: Base, batch: Batch, *, seconds: float = 1.0) -> float:
    """Milliseconds that a row takes, from raw row to answer: the median of 5 to 48 batches, after two that warm up."""
    device, count = device_of(base.module), length(batch)
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) < 7 or (time.perf_counter() - begin < seconds and len(took) < 50):
        start = time.perf_counter()
        base.logits(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - start)
    return 1000 * median(took[2:]) / count


def activations(base: Base, batch: Batch) -> int:
    """The bytes of what all layers without layers inside give out for the batch."""
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        parts = output if isinstance(output, tuple | list) else (output,)
        total += sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))

    module = bare(base.module)
    leaves = [layer for layer in module.modules() if not any(layer.children())]
    handles = [layer.register_forward_hook(count) for layer in leaves]
    try:
        with evaluating(module):
            base.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return total
