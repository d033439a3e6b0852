"""What evaluations in the middle of learning say: the worst moments, which a matrix of final scores hides.

All readings take `Moments`, as `Scores.anytime` gives them: N evaluations in time, each of all experiences
seen so far. With one evaluation at the end of each experience they are defined too, and blind to what happens
in between.
"""

import torch
from torch import Tensor

from everlearn.metrics.readings import NotMeasuredError
from everlearn.metrics.scores import Moments


def average_anytime_accuracy(moments: Moments) -> float:
    """The mean over all evaluations of the mean accuracy on the experiences seen so far.

    AAA = 1/N sum_n 1/k_n sum_{j<k_n} A(j, n), where k_n experiences are seen at evaluation n, the one being
    learned included. Caccia et al. 2020.
    """
    seen = _seen(moments, "the average anytime accuracy")
    values = moments.values.masked_fill(~seen, 0)
    return float((values.sum(dim=1) / seen.sum(dim=1)).mean())


def minimum_accuracy(moments: Moments) -> float:
    """The lowest accuracy that each experience but the last ever fell to after it was learned, averaged.

    min-ACC = 1/(T-1) sum_{j<T-1} min_{n: after the end of j} A(j, n). De Lange et al. 2023.
    """
    _seen(moments, "the minimum accuracy")
    last = int(moments.after[-1])
    if last == 0:
        raise NotMeasuredError("the minimum accuracy needs two experiences: nothing was learned after the first")
    past = moments.after[:, None] > torch.arange(moments.values.shape[1])
    return float(moments.values.masked_fill(~past, torch.inf).amin(dim=0)[:last].mean())


def worst_case_accuracy(moments: Moments) -> float:
    """The accuracy on the last experience at the last evaluation, weighed with the worst of the earlier ones.

    WC-ACC = 1/T A(T-1, N-1) + (1 - 1/T) min-ACC. De Lange et al. 2023.
    """
    _seen(moments, "the worst-case accuracy")
    last = int(moments.after[-1])
    newest = float(moments.values[-1, last])
    return newest if last == 0 else (newest + last * minimum_accuracy(moments)) / (last + 1)


def windowed_forgetting(moments: Moments, window: int = 10) -> float:
    """The largest fall of accuracy within `window` evaluations in a row, averaged over experiences.

    WF = 1/T sum_j max(0, max_{m<n<m+window} (A(j, m) - A(j, n))), from the first evaluation of experience j
    while or after it was learned. De Lange et al. 2023.
    """
    return _largest_change(moments, window, sign=-1)


def windowed_plasticity(moments: Moments, window: int = 10) -> float:
    """The largest rise of accuracy within `window` evaluations in a row, averaged over experiences.

    WP = 1/T sum_j max(0, max_{m<n<m+window} (A(j, n) - A(j, m))). De Lange et al. 2023.
    """
    return _largest_change(moments, window, sign=1)


def _largest_change(moments: Moments, window: int, sign: int) -> float:
    if window < 2:
        raise ValueError(f"a change needs a window of at least 2 evaluations, but it is {window}")
    seen = _seen(moments, "a windowed reading")
    largest = torch.zeros(moments.values.shape[1], dtype=torch.float64)
    for lag in range(1, min(window, len(seen))):
        change = sign * (moments.values[lag:] - moments.values[:-lag])
        both = seen[lag:] & seen[:-lag]
        largest = torch.maximum(largest, change.masked_fill(~both, 0).amax(dim=0))
    return float(largest[: int(moments.after[-1]) + 1].mean())


def _seen(moments: Moments, reading: str) -> Tensor:
    """Which experience was seen by which moment, shape (N, T); each such pair must have been measured."""
    if not len(moments.after):
        raise NotMeasuredError(f"{reading} needs evaluations, but there are none")
    seen = moments.after[:, None] >= torch.arange(moments.values.shape[1])
    missing = (seen & moments.values.isnan()).nonzero().tolist()
    if missing:
        moment, on = missing[0]
        raise NotMeasuredError(
            f"{reading} needs the accuracy on experience {on} at step {int(moments.step[moment])} of "
            f"experience {int(moments.after[moment])}, which was not measured"
        )
    return seen
