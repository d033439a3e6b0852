"""Figures: one history, read by hand."""

import torch

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.subject import History

SIZES = (60, 20, 20, 10)
"""Classes of each experience: 110 in all, in groups of unequal size."""
RIGHT = ((54, None, None, None), (42, 19, None, None), (45, 11, 18, None), (30, 15, 9, 8))
"""The right answers, by experience finished and asked."""


def _history(right: tuple[tuple[int | None, ...], ...]) -> History:
    """Answers of which so many are right, one test row for each class."""
    history: History = []
    for line in right:
        asked, first = [], 0
        for size, count in zip(SIZES, line, strict=True):
            y = torch.arange(first, first + size)
            if count is not None:
                asked.append((y, torch.where(torch.arange(size) < count, y, (y + 1) % sum(SIZES))))
            first += size
        history.append(asked)
    return history


def _by_hand(right: tuple[tuple[int | None, ...], ...]) -> dict[str, float]:
    """The readings whose definitions libraries use, written out."""
    r = [[0.0 if n is None else n / size for n, size in zip(line, SIZES, strict=True)] for line in right]
    last, old = r[3], range(3)
    best = [max(r[i][j] for i in range(j, 3)) for j in old]
    ever = [max(r[i][j] for i in range(j, 4)) for j in old]
    stages = [sum(r[k][: k + 1]) / (k + 1) for k in range(4)]
    pooled = [sum(n or 0 for n in right[k]) / sum(SIZES[: k + 1]) for k in range(4)]
    return {
        "average_accuracy": stages[3],
        "average_accuracy_pooled": pooled[3],
        "average_incremental_accuracy": sum(stages) / 4,
        "average_incremental_accuracy_pooled": sum(pooled) / 4,
        "average_incremental_accuracy_without_first": sum(pooled[1:]) / 3,
        "learning_accuracy": sum(r[j][j] for j in range(4)) / 4,
        "forgetting": sum(best[j] - last[j] for j in old) / 3,
        "forgetting_from_first": sum(r[j][j] - last[j] for j in old) / 3,
        "forgetting_with_last_row": sum(ever[j] - last[j] for j in old) / 3,
        "forgetting_over_all": sum(ever[j] - last[j] for j in old) / 4,
        "backward_transfer": sum(last[j] - r[j][j] for j in old) / 3,
        "backward_transfer_mean": sum(r[i][j] - r[j][j] for i in range(4) for j in range(i)) / 6,
    }


def _read(trial: Trial, right: tuple[tuple[int | None, ...], ...]) -> str:
    found, expected = trial.adapter.readings(_history(right)), _by_hand(right)
    asked = [name for name in expected if name in found]
    if not asked:
        raise FoundError(f"no reading has a known definition: {sorted(found)}")
    apart = [name for name in asked if not abs(found[name] - expected[name]) <= 1e-6]
    wrong = [f"{name} is {expected[name]:.4f}, not {found[name]:.4f}" for name in apart]
    if wrong:
        raise FoundError("; ".join(wrong))
    return ", ".join(f"{name} {found[name]:.3f}" for name in asked)


@check("readings-by-hand", "")
def readings_by_hand(trial: Trial) -> str:
    """Each reading is what its definition says, on 110 classes in experiences of unequal size.

    Groups of ten classes, whatever the experiences were; groups sorted as text, where 100 comes before 20.

    "Forgetting" has at least four definitions, which differ by half; a number without its definition is none.
    """
    return _read(trial, RIGHT)


@check("a-static-model-forgets-nothing", "")
def a_static_model_forgets_nothing(trial: Trial) -> str:
    """A model that never changes has a forgetting and a backward transfer of 0.

    A reading that compares one group of classes with another one.

    In the matrix that a real run leaves, a wrong number looks like any other.
    """
    count = (30, 12, 7, 4)
    right = tuple(tuple(count[j] if j <= i else None for j in range(4)) for i in range(4))
    return _read(trial, right)
