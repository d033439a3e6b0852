"""Spans of the inputs of a layer: what is missing in one, and what its inputs notice of a step."""

import torch
from torch import Tensor


def missing(basis: Tensor, moment: Tensor, share: float) -> Tensor:
    """The fewest directions, (inputs, k), that hold with `basis` a `share` of the inputs with this second moment."""
    away = torch.eye(len(moment)).to(moment) - basis @ basis.T
    values, vectors = torch.linalg.eigh(away @ moment @ away)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = moment.trace()
    need = values.sum() - (1 - share) * total
    count = min(int((values.cumsum(0) < need).sum()) + int(need > 0), int((values > 1e-12 * total).sum()))
    directions: Tensor = vectors[:, :count]  # what is below 1e-12 is the noise of float32
    return directions


def unnoticed(basis: Tensor) -> Tensor:
    """A step of one output, (inputs,), that no input in `basis` notices and that moves the last weight, the bias, by 1.

    Where there is none, which is where the span holds an input of the bias alone, it moves nothing else.
    """
    alone = torch.zeros(len(basis)).to(basis)
    alone[-1] = 1
    step = alone.double()
    for _ in range(2):  # twice is enough, though the basis was rounded
        step = step - basis.double() @ (basis.double().T @ step)
    return (step / step[-1]).to(basis) if step[-1] > 1e-10 else alone


def noticed(step: Tensor, basis: Tensor, free: Tensor) -> Tensor:
    """What has to be taken from `step`, (outputs, inputs), for the inputs in `basis` to notice nothing: the least.

    Its last column are the biases, and `free` is what `unnoticed` gives. If they stood still, they still do: the
    weights make up for them. If only they moved, they are put back, unless old inputs have none.
    """
    away = step @ basis @ basis.T
    weights, biases = step[:, :-1].any(), step[:, -1].any()
    away = torch.where(biases, away, away - away[:, -1:] * free)
    return torch.where(weights, away, step * (basis[-1].square().sum() > 1e-10))
