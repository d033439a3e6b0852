"""What an accuracy matrix says: the named readings, each by its own definition.

R is a T x T matrix: R[i, j] is the accuracy on experience j after finishing experience i, counted from 0, nan
where it was not measured. Libraries give one name to different readings ("forgetting" of one and the same
matrix may differ by half), so each variant has a name of its own here. An entry that a reading needs and that
was not measured is an error: it is never taken for 0. A reading at stage k is that of `R[:k+1, :k+1]`.
"""

# ruff: noqa: N803, N806 (R is what the field calls the matrix)

from collections.abc import Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = Tensor | NDArray[Any] | Sequence[Sequence[float]]
Vector = Tensor | NDArray[Any] | Sequence[float]


class NotMeasuredError(ValueError):
    """A reading needs a measurement that was not made."""


def average_accuracy(R: Matrix, counts: Matrix | Vector | None = None, *, pooled: bool = False, row: int = -1) -> float:
    """The accuracy on all experiences seen by stage k = `row`: the mean over experiences, or over their rows.

    A_k = 1/(k+1) sum_{j<=k} R[k, j]; pooled: A_k = sum_{j<=k} n_j R[k, j] / sum_{j<=k} n_j, with `counts` n
    of shape (T,) or (T, T). Lopez-Paz and Ranzato 2017 (ACC) take the mean over experiences;
    class-incremental papers since Rebuffi et al. 2017 pool the rows. The two differ where experiences differ
    in size.

    >>> average_accuracy([[0.9, float("nan")], [0.5, 0.8]])
    0.65
    >>> average_accuracy([[0.9, float("nan")], [0.5, 0.8]], counts=[100, 200], pooled=True)
    0.7
    """
    R = _square(R)
    k = range(len(R))[row]
    needed = torch.zeros_like(R, dtype=torch.bool)
    needed[k, : k + 1] = True
    _require(R, needed, "the average accuracy")
    weights = _weights(counts, k) if pooled else torch.ones(k + 1, dtype=torch.float64)
    return float((R[k, : k + 1] * weights).sum() / weights.sum())


def average_incremental_accuracy(
    R: Matrix, counts: Matrix | Vector | None = None, *, pooled: bool = False, include_first: bool = True
) -> float:
    """The mean over stages of the accuracy on all experiences seen so far.

    A = 1/T sum_k A_k, with A_k as in `average_accuracy`. Rebuffi et al. 2017 (iCaRL), pooled over rows. Some
    papers leave out the first stage, which is not incremental: `include_first=False`.
    """
    R = _square(R)
    stages = range(0 if include_first else 1, len(R))
    if not stages:
        raise NotMeasuredError("without the first stage, the average incremental accuracy needs two experiences")
    return sum(average_accuracy(R, counts, pooled=pooled, row=k) for k in stages) / len(stages)


def learning_accuracy(R: Matrix) -> float:
    """How well each experience was learned in its turn: LA = 1/T sum_j R[j, j]. Riemer et al. 2019 (MER)."""
    R = _square(R)
    _require(R, torch.eye(len(R), dtype=torch.bool), "the learning accuracy")
    return float(R.diagonal().mean())


def forgetting(
    R: Matrix,
    *,
    reference: Literal["max", "first"] = "max",
    include_last_row: bool = False,
    include_last_experience: bool = False,
) -> float:
    """How much of what was once known is known no longer, averaged over the experiences before the last.

    F = 1/(T-1) sum_{j<T-1} (max_{j<=l<T-1} R[l, j] - R[T-1, j]): Chaudhry et al. 2018 (RWalk). It is negative
    where the last experience improved the earlier ones. The variants in use:

    * `reference="first"`: R[j, j] in place of the maximum, as in Avalanche; this is minus the backward
    transfer.
    * `include_last_row=True`: the maximum runs to the last row too, as in Mammoth; it can then not be
    negative.
    * `include_last_experience=True`: the mean is over all T, the last one adding 0 (Mai et al. 2022 do this,
    with the last row in the maximum).

    >>> forgetting([[0.9, float("nan")], [0.5, 0.8]])
    0.4
    """
    R = _square(R)
    last, count = len(R) - 1, len(R) if include_last_experience else len(R) - 1
    if reference not in {"max", "first"}:
        raise ValueError(f"reference must be 'max' or 'first', but it is {reference!r}")
    if reference == "first" and include_last_row:
        raise ValueError("include_last_row is about the maximum; with reference='first' there is none")
    if last == 0:
        raise NotMeasuredError("forgetting needs two experiences: nothing was learned after the first")
    row, column = torch.arange(len(R))[:, None], torch.arange(len(R))
    known = row == column
    if reference == "max":
        known = known | ((row > column) & (row < last + include_last_row))
    _require(R, (known | (row == last)) & (column < count), "forgetting")
    best = R.masked_fill(~known, -torch.inf).amax(dim=0)
    return float((best - R[last])[:count].mean())


def backward_transfer(R: Matrix) -> float:
    """How learning the later experiences changed the earlier ones: negative where they were forgotten.

    BWT = 1/(T-1) sum_{j<T-1} (R[T-1, j] - R[j, j]). Lopez-Paz and Ranzato 2017 (GEM).
    """
    R = _square(R)
    if len(R) < 2:
        raise NotMeasuredError("backward transfer needs two experiences: nothing was learned after the first")
    needed = torch.eye(len(R), dtype=torch.bool)
    needed[-1] = True
    _require(R, needed, "backward transfer")
    return float((R[-1] - R.diagonal())[:-1].mean())


def backward_transfer_mean(R: Matrix) -> float:
    """Backward transfer, averaged over all stages and not read at the last alone.

    BWT = 2/(T(T-1)) sum_{i>j} (R[i, j] - R[j, j]). Diaz-Rodriguez et al. 2018, whose BWT+ is max(BWT, 0).
    """
    R = _square(R)
    if len(R) < 2:
        raise NotMeasuredError("backward transfer needs two experiences: nothing was learned after the first")
    lower = torch.ones_like(R, dtype=torch.bool).tril()
    _require(R, lower, "backward transfer")
    return float((R - R.diagonal())[lower.tril(-1)].mean())


def forward_transfer(R: Matrix, baseline: Vector | None) -> float:
    """What earlier experiences are worth for one that is yet to come, over knowing nothing.

    FWT = 1/(T-1) sum_{j>=1} (R[j-1, j] - b_j), where b, shape (T,), is the accuracy before the first
    experience. Lopez-Paz and Ranzato 2017 (GEM). Some libraries leave out b: see `forward_transfer_mean`.
    """
    R = _square(R)
    if len(R) < 2:
        raise NotMeasuredError("forward transfer needs two experiences: nothing was learned before the first")
    if baseline is None:
        raise NotMeasuredError("forward transfer needs the baseline: the accuracies before the first experience")
    b = _vector(baseline, len(R), "the baseline")
    if bool(b[1:].isnan().any()):
        missing = (b[1:].isnan().nonzero().flatten() + 1).tolist()
        raise NotMeasuredError(f"forward transfer needs the baseline of experiences {missing}, which was not measured")
    _require(R, torch.ones_like(R).diagonal(1).diag(1).bool(), "forward transfer")
    return float((R.diagonal(1) - b[1:]).mean())


def forward_transfer_mean(R: Matrix) -> float:
    """The accuracy on experiences that are yet to come, with no baseline taken off.

    FWT = 2/(T(T-1)) sum_{i<j} R[i, j]. Diaz-Rodriguez et al. 2018.
    """
    R = _square(R)
    if len(R) < 2:
        raise NotMeasuredError("forward transfer needs two experiences: nothing was learned before the first")
    upper = torch.ones_like(R, dtype=torch.bool).triu(1)
    _require(R, upper, "forward transfer")
    return float(R[upper].mean())


def intransigence(R: Matrix, joint: Vector, *, row: int = -1) -> float:
    """What was not learned because of what is held on to: negative where learning in sequence helped.

    I_k = J_k - R[k, k] for k = `row`, where J_k is the accuracy on experience k of a model trained on
    experiences 0..k together, shape (T,). Chaudhry et al. 2018 (RWalk).
    """
    R = _square(R)
    k = range(len(R))[row]
    together = _vector(joint, len(R), "the joint reference")[k]
    if bool(together.isnan()) or bool(R[k, k].isnan()):
        raise NotMeasuredError(f"intransigence needs R[{k}, {k}] and the joint reference of experience {k}")
    return float(together - R[k, k])


def _square(R: Matrix) -> Tensor:
    square = torch.as_tensor(R, dtype=torch.float64).cpu()
    if square.ndim != 2 or square.shape[0] != square.shape[1] or not len(square):
        raise ValueError(f"R must be a T x T matrix, but its shape is {tuple(square.shape)}")
    return square


def _vector(values: Vector, size: int, what: str) -> Tensor:
    vector = torch.as_tensor(values, dtype=torch.float64).cpu()
    if vector.shape != (size,):
        raise ValueError(f"{what} must have one value for each of {size} experiences, but its shape is {vector.shape}")
    return vector


def _weights(counts: Matrix | Vector | None, row: int) -> Tensor:
    if counts is None:
        raise ValueError("a pooled accuracy needs counts: the number of test rows of each experience")
    weights = torch.as_tensor(counts, dtype=torch.float64).cpu()
    weights = (weights[row] if weights.ndim == 2 else weights)[: row + 1]
    if len(weights) != row + 1 or bool((weights <= 0).any()):
        raise ValueError(f"a pooled accuracy needs {row + 1} positive counts, but they are {weights.tolist()}")
    return weights


def _require(R: Tensor, needed: Tensor, reading: str) -> None:
    missing = (needed & R.isnan()).nonzero().tolist()
    if missing:
        row, column = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise NotMeasuredError(
            f"{reading} needs R[{row}, {column}], the accuracy on experience {column} after experience "
            f"{row}{more}, which was not measured"
        )
