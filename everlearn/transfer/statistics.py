"""Statistics of batch normalisation, computed anew: those of given rows, for weights that have changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from everlearn.batch import Rows, length, move, unlabeled
from everlearn.border import positive
from everlearn.data.order import batches
from everlearn.data.transforms import View
from everlearn.models.scope import counting
from everlearn.models.views import bare, device_of, evaluating
from everlearn.objective import Objective, Viewed, classify
from everlearn.randomness import unmoved


def recompute_statistics(
    model: nn.Module,
    rows: Rows,
    objective: Objective = classify,
    *,
    view: View | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> int:
    """Makes the statistics of batch normalisation those of `rows`, in one pass; returns how many layers have new ones.

    Each mean and variance is the average of those of all batches, weighted by their rows. Layers that are frozen with
    `norm="frozen"` are left as they are, and so is all else: weights, modes, random generators. If it fails, nothing
    has changed. `view` is that of the
    learner; rows are not augmented.
    """
    model, count = bare(model), len(rows)
    layers = list(counting(model).values())
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no batch normalisation whose statistics could be computed anew: it has none, "
            'or froze them with norm="frozen"; freeze them with norm="recompute"'
        )
    positive(batch_size=batch_size)
    if count < 2:
        raise ValueError(f"statistics of a batch need at least 2 rows, but there are {count}")
    size = max(2, min(batch_size, count))  # the variance of a single row is not known
    while count % size == 1:
        size += 1
    device = device_of(model)
    seen = objective if view is None else Viewed(objective, view)
    with torch.no_grad(), unmoved(device), evaluating(model), _renewed(layers):
        done = 0
        for batch in batches(rows, torch.arange(count), size, workers=workers):
            taken = length(batch)
            done += taken
            for layer in layers:
                layer.momentum = taken / done
            seen(model, move(unlabeled(batch), device))
    return len(layers)


@contextmanager
def _renewed(layers: Sequence[_NormBase]) -> Iterator[None]:
    """New statistics, which the layers count in train mode; the old ones come back if that fails."""
    before = [(layer, layer.momentum, [(part, part.clone()) for part in layer.buffers()]) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.training = True
        yield
    except BaseException:
        for part, value in (each for _, _, parts in before for each in parts):
            part.copy_(value)
        raise
    finally:
        for layer, momentum, _ in before:
            layer.momentum, layer.training = momentum, False
