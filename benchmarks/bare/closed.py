"""Heads in closed form on the features of a frozen body: one pass of sums, and one solution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pass = list[tuple[Tensor, Tensor]]
"""Rows and labels, batch by batch."""


@torch.no_grad()
def slda(body: nn.Module, batches: Pass, width: int, classes: int, eps: float) -> tuple[Tensor, Tensor]:
    """Weights (width, classes) and biases (classes): the scatter within classes is that of all less that of the means.

    In float64: the difference is of large numbers.
    """
    gram, sums, counts = torch.zeros(width, width).double(), torch.zeros(classes, width).double(), torch.zeros(classes)
    for x, y in batches:
        h, hot = body(x).double(), F.one_hot(y, classes).double()
        gram.addmm_(h.T, h)
        sums.addmm_(hot.T, h)
        counts += hot.sum(0)
    means = sums / counts.unsqueeze(1)
    covariance = (gram - sums.T @ means) * ((1 - eps) / counts.sum())
    covariance.diagonal().add_(eps)
    weight = torch.linalg.solve(covariance, means.T)
    return weight, -(weight.T * means).sum(1) / 2


@torch.no_grad()
def ranpac(body: nn.Module, batches: Pass, held: Pass, classes: int, P: Tensor) -> Tensor:  # noqa: N803
    """The weights (M, classes) of the strength, of seventeen, with which `batches` predict `held` best."""
    (gram, cross), (held_gram, held_cross) = (_moments(body, part, classes, P) for part in (batches, held))
    values, vectors = torch.linalg.eigh(gram)
    along = vectors.T @ cross
    errors = {}
    for strength in [10.0**power for power in range(-8, 9)]:
        weight = vectors @ (along / (values.clamp(min=0) + strength).unsqueeze(1))
        errors[strength] = float((weight * (held_gram @ weight - 2 * held_cross)).sum())
    gram += held_gram
    gram.diagonal().add_(min(errors, key=errors.get))
    return torch.cholesky_solve(cross + held_cross, torch.linalg.cholesky(gram))


def _moments(body: nn.Module, batches: Pass, classes: int, P: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    gram, cross = P.new_zeros(P.shape[1], P.shape[1]), P.new_zeros(P.shape[1], classes)
    for x, y in batches:
        h = (body(x).to(P) @ P).relu_()
        gram.addmm_(h.T, h)
        cross.addmm_(h.T, F.one_hot(y, classes).to(P))
    return gram, cross
