"""What became of answers that are numbers: sums of errors that are kept row by row, beside two simple forecasts.

Skill: Murphy, Skill scores based on the mean square error, Monthly Weather Review 1988.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from everlearn.metrics.intervals import Blocks

Row = tuple[float, float, float, float]
"""The true value, the answer, the value before, and the mean of all values before; nan before the first row."""

_SUMS = 9

LARGEST = 1e150
"""Beyond it a square is infinite, and so are all sums from then on."""


def _terms(row: Row) -> tuple[float, ...]:
    """What is summed over rows; what compares with forecasts leaves out the first row, which has none."""
    actual, given, before, mean = row
    off = given - actual
    square = off * off
    if before != before:  # noqa: PLR0124 (nan)
        return (1.0, abs(off), square, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    change, away = before - actual, mean - actual
    return (1.0, abs(off), square, 1.0, square, abs(change), change * change, abs(away), away * away)


def _levels(sums: Sequence[float], spread: float, prefix: str = "") -> dict[str, float]:
    """The readings of some sums of `_terms`, and of the squared distances of true values from their mean."""
    rows, off, squares, others, paired, change, changes, away, aways = sums
    found = {"mae": off / rows, "rmse": math.sqrt(squares / rows)}
    if spread > 0:
        found["r2"] = 1 - squares / spread
    if others:
        found |= {"no_change_mae": change / others, "no_change_rmse": math.sqrt(changes / others)}
        found |= {"running_mean_mae": away / others, "running_mean_rmse": math.sqrt(aways / others)}
        if changes > 0:
            found["skill_no_change"] = 1 - paired / changes
        if aways > 0:
            found["skill_running_mean"] = 1 - paired / aways
    return {prefix + name: value for name, value in found.items()}


class Spread:
    """The number of values, their mean and the sum of their squared distances from it, with a past that may fade."""

    def __init__(self, weight: float = 0.0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.weight, self.mean, self.squares = weight, mean, squares

    def add(self, value: float, fading: float = 1.0) -> None:
        """One more value (Welford, 1962)."""
        self.weight = fading * self.weight + 1
        away = value - self.mean
        self.mean += away / self.weight
        self.squares = fading * self.squares + away * (value - self.mean)

    def swap(self, old: float, new: float) -> None:
        """One of the values was another."""
        mean = self.mean + (new - old) / self.weight
        self.squares += (new - old) * (new - mean + old - self.mean)
        self.mean = mean

    def state(self) -> list[float]:
        """All of it."""
        return [self.weight, self.mean, self.squares]


class Forecasts:
    """Answers that are numbers, over the whole stream, over its last rows, and with the past fading.

    Two forecasts stand beside the model, from the labels counted before: the last value (no-change), and the mean of
    all. Sums over the last rows are computed anew, without rounding, when they are asked for.
    """

    def __init__(self, window: int, fading: float) -> None:
        self.window, self.fading = window, fading
        self.recent: deque[Row] = deque(maxlen=window)
        self.terms: deque[tuple[float, ...]] = deque(maxlen=window)
        self.sums, self.faded = [0.0] * _SUMS, [0.0] * _SUMS
        self.spread, self.faded_spread = Spread(), Spread()
        self.blocks = Blocks()

    def check(self, *values: Any) -> None:
        """Raises a ValueError for what is no finite number, or too large: such a row would spoil all sums for good."""
        for value in values:
            if isinstance(value, str) or value is None or not abs(value) < LARGEST:
                raise ValueError(
                    f"expected a finite number below {LARGEST:.0e}, but got {value!r}; count classes with "
                    "kind='accuracy'"
                )

    def add(self, predicted: Any, actual: Any) -> None:
        """One row."""
        self.check(predicted, actual)
        before, mean = (self.recent[-1][0], self.spread.mean) if self.recent else (math.nan, math.nan)
        row = float(actual), float(predicted), before, mean
        terms = _terms(row)
        self.sums = [a + b for a, b in zip(self.sums, terms, strict=True)]
        self.faded = [self.fading * a + b for a, b in zip(self.faded, terms, strict=True)]
        self.spread.add(row[0])
        self.faded_spread.add(row[0], self.fading)
        self.recent.append(row)
        self.terms.append(terms)
        self.blocks.add(terms[1])

    def correct(self, predicted: Any, old: Any, new: Any) -> None:
        """Another value for a row: see `Prequential.correct`."""
        self.check(predicted, old, new)
        if not self.sums[0]:
            raise ValueError("no row was counted yet, so none can be corrected")
        was, now = _terms((old, predicted, math.nan, 0.0)), _terms((new, predicted, math.nan, 0.0))
        for place in (1, 2):
            self.sums[place] = max(self.sums[place] + now[place] - was[place], 0.0)
        if self.sums[3]:
            self.sums[4] = max(self.sums[4] + now[2] - was[2], 0.0)
        self.spread.swap(old, new)

    def levels(self) -> dict[str, float]:
        """What is worth a curve over time."""
        last = [math.fsum(column) for column in zip(*self.terms, strict=True)]
        values = [row[0] for row in self.recent]
        mean = math.fsum(values) / len(values)
        spread = math.fsum([(value - mean) * (value - mean) for value in values])
        return (
            _levels(self.sums, self.spread.squares)
            | _levels(last, spread, "windowed_")
            | _levels(self.faded, self.faded_spread.squares, "fading_")
        )

    def details(self) -> dict[str, float]:
        """The interval of the mean absolute error."""
        half = self.blocks.half()
        level = self.sums[1] / self.sums[0]
        return {} if half is None else {"mae_block_low": max(level - half, 0.0), "mae_block_high": level + half}

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain values and tensors."""
        return {
            "recent": torch.tensor(list(self.recent), dtype=torch.float64).reshape(-1, 4),
            "sums": list(self.sums),
            "faded": list(self.faded),
            "spread": self.spread.state(),
            "faded_spread": self.faded_spread.state(),
            "blocks": self.blocks.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what it was."""
        self.recent = deque((tuple(row) for row in state["recent"].tolist()), maxlen=self.window)
        self.terms = deque(map(_terms, self.recent), maxlen=self.window)
        self.sums, self.faded = list(state["sums"]), list(state["faded"])
        self.spread, self.faded_spread = Spread(*state["spread"]), Spread(*state["faded_spread"])
        self.blocks = Blocks(**state["blocks"])
