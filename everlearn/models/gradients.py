"""Gradients of all trainable weights as one vector, for methods that look at angles between them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from everlearn.batch import UNLABELED, Batch, move, tensor, unlabeled
from everlearn.models.views import bare, evaluating, trainable
from everlearn.objective import Objective

Array = npt.NDArray[np.float64]


def flat(values: Iterable[Tensor]) -> Tensor:
    """The values one after the other, each in its logical order whatever its memory format, in float32 at least."""
    return torch.cat([wide(value).reshape(-1) for value in values])


def wide(value: Tensor) -> Tensor:
    """The value in float32 at least."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def gradient_at(model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
    """What `gradients_at` gives, as one vector, (weights,)."""
    return flat(gradients_at(model, batch, objective))


def gradients_at(model: nn.Module, batch: Batch, objective: Objective) -> list[Tensor]:
    """The gradient of the loss of `batch` at the present weights, for each trainable weight, in float32 at least.

    It is an estimate: in eval mode, so that neither buffers nor random generators move, and without touching `.grad`.
    A weight that the batch does not use has a gradient of zero; so do all if there is nothing to descend.
    """
    model = bare(model)  # gradient hooks of DDP would wait for a backward pass that does not come
    weights = list(trainable(model).values())
    with evaluating(model), torch.enable_grad():
        loss = objective(model, move(batch, weights[0].device)).loss
    if loss is None:
        return [torch.zeros_like(wide(weight)) for weight in weights]
    return [wide(value) for value in torch.autograd.grad(loss, weights, materialize_grads=True)]


def inner(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    """The inner product of two gradients that lie weight by weight: they need not be copied into vectors for it."""
    pairs = zip(first, second, strict=True)
    return torch.stack([torch.dot(wide(a).reshape(-1), wide(b).reshape(-1)) for a, b in pairs]).sum()


def logit_gradients(model: nn.Module, row: Batch, objective: Objective, variant: str) -> list[Tensor]:
    """The gradients of logits of one row at the present weights, each (weights,), as `gradient_at` takes them.

    `variant` is "gtl": that of the logit of its class, if it has one; "all": of each logit; "ave": of their mean.
    """
    model = bare(model)
    weights = list(trainable(model).values())
    row = move(row, weights[0].device)
    with evaluating(model), torch.enable_grad():
        logits = objective(model, unlabeled(row)).logits
        if logits.ndim != 2 or (variant == "gtl" and "y" not in row):
            raise ValueError(
                f"gradients of logits need logits of shape (1, classes), and with the variant gtl a column y; but they "
                f"are {tuple(logits.shape)}, and the columns {sorted(row)}. Without labels, the variants all and ave do"
            )
        every = torch.eye(logits.shape[1], device=logits.device)
        if variant == "gtl":
            y = tensor(row, "y")
            every = every[y[y != UNLABELED]]
        elif variant == "ave":
            every = every.mean(0, keepdim=True)
        heights = [(logits * one).sum() for one in every]
        return [flat(torch.autograd.grad(h, weights, retain_graph=True, materialize_grads=True)) for h in heights]


def get_gradient(model: nn.Module) -> Tensor:
    """`.grad` of all trainable weights, (weights,); zero where there is none."""
    return flat(torch.zeros_like(w) if w.grad is None else w.grad for w in trainable(model).values())


@torch.no_grad()
def set_gradient(model: nn.Module, vector: Tensor) -> None:
    """Writes a vector like that of `get_gradient` back to `.grad`, as far as `awaken` lets it."""
    weights = list(trainable(model).values())
    pieces = vector.split_with_sizes([weight.numel() for weight in weights])
    shaped = [piece.reshape(weight.shape) for piece, weight in zip(pieces, weights, strict=True)]
    there = [(weight.grad, piece) for weight, piece in zip(weights, shaped, strict=True) if weight.grad is not None]
    awaken(weights, shaped)
    if there:
        targets, sources = zip(*there, strict=True)
        torch._foreach_copy_(targets, sources)


def awaken(weights: Iterable[Tensor], gradients: Iterable[Tensor]) -> None:
    """Gives weights without a gradient those of `gradients` that are not zero.

    An optimizer passes over a weight without one, but one of zeros would be moved by momentum and by weight decay.
    """
    idle = [(weight, piece) for weight, piece in zip(weights, gradients, strict=True) if weight.grad is None]
    if idle:
        moving = torch.stack([piece.any() for _, piece in idle]).tolist()
        for (weight, piece), moves in zip(idle, moving, strict=True):
            if moves:
                weight.grad = torch.empty_like(weight).copy_(piece)


def agreeing(gradient: Tensor, references: Tensor, least: float) -> Tensor:
    """`gradient`, (weights,), turned so that it points against none of the `references`, (n, weights).

    If it does against any, it becomes gradient + v @ references with the v of `dual`.
    """
    # One transfer for all of it, as each waits for the device: the problem itself is too small for one.
    both = torch.column_stack([references @ references.T, references @ gradient]).double().cpu().numpy()
    gram, products = both[:, :-1], both[:, -1]
    if not ((products < 0).any() and np.isfinite(both).all()):  # not finite: fp16 overflowed, there will be no step
        return gradient
    return torch.addmv(gradient, references.T, torch.from_numpy(dual(gram, products, least)).to(gradient))


def dual(gram: Array, products: Array, least: float) -> Array:
    """The v >= `least`, (n,), that minimises 1/2 v^T (gram + 1e-3 I) v + products^T v, by active sets: exact.

    Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23. With v = u + least, all that is asked of u is
    to be at least 0; `free` are those that are not held there.
    """
    hessian = (gram + gram.T) / 2 + 1e-3 * np.eye(len(gram))
    slope = products + least * hessian.sum(1)
    u, free = np.zeros(len(gram)), np.zeros(len(gram), bool)
    for _ in range(10 * len(gram)):  # a few more than n are needed, unless rounding makes it go round in circles
        pull = np.where(free, -np.inf, -(hessian @ u + slope))
        if pull.max() <= 1e-12 * np.abs(slope).max():
            break
        free[pull.argmax()] = True
        while True:
            aim = np.zeros(len(gram))
            aim[free] = np.linalg.solve(hessian[np.ix_(free, free)], -slope[free])
            short = aim < 0
            if not short.any():
                break
            u += (u[short] / (u[short] - aim[short])).min() * (aim - u)  # as far as the first that would fall below 0
            free &= ~short | (u > 1e-12 * u.max())
            u[~free] = 0
        u = aim
    return u + least


def strongest(vectors: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis, (k, weights), of `vectors`, (n, weights), strongest first, and its strengths, (k,).

    Of vectors whose span has more than `most` dimensions, it is the one of `most` that is nearest to all of them.
    """
    q, r = torch.linalg.qr(vectors.T)
    u, strengths, _ = torch.linalg.svd(r, full_matrices=False)
    rank = int((strengths > 1e-5 * strengths.max()).sum())  # below that, float32 has noise
    return (q @ u[:, : min(rank, most)]).T, strengths[: min(rank, most)]


def within(basis: list[Tensor], grams: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
    """What has to be taken from `steps`, one of each weight, for none to be left along a direction: the least.

    `basis` are the parts of orthonormal directions in each weight, (directions, size), and `grams` their products with
    themselves, in float64. A weight that stood still does so afterwards, too, and the others make up for it: with m
    for those that moved, it is m V^T (V m V^T)^-1 V step, where the inverse is of the identity if all have.
    """
    if not steps:
        return []
    moved = torch.stack([step.any() for step in steps])  # not looked at here: to look is to wait for the device
    along = torch.stack([rows @ step for rows, step in zip(basis, steps, strict=True)]).sum(0)
    gram = torch.tensordot(moved.to(grams[0]), torch.stack(grams), 1)
    gram.diagonal().add_(1e-9)  # directions that hardly reach what moved; they change it by 2e-5 of the step at most
    factor = torch.linalg.cholesky_ex(gram).L
    along = torch.cholesky_solve(along.to(gram)[:, None], factor)[:, 0].to(along)
    return [torch.where(moves, along @ rows, 0) for moves, rows in zip(moved, basis, strict=True)]
