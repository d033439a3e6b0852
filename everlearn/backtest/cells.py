"""The columns of the table of policies: what each means, and how its numbers are written."""

# ruff: noqa: RUF001 (a minus sign is meant)

import math
from dataclasses import dataclass

from everlearn.backtest.outcome import Outcome
from everlearn.backtest.verdict import Verdict
from everlearn.metrics import wording
from everlearn.online.span import said


@dataclass(frozen=True)
class Column:
    """A column: its title, and what it says."""

    title: str
    meaning: str
    of: str = "both"
    """Where it is shown: classification, regression or both."""

    def shown(self, verdict: Verdict) -> bool:
        """Whether it has anything to say of such labels."""
        return self.of in {"both", "regression" if verdict.regression else "classification"}


_MEANINGS = {
    "error": "The share of answers that were wrong, in percent, or the mean absolute error: of the answers that were "
    "served, each given before its label was learned.",
    "behind the best": "How much higher the error is than that of the best on the same rows, in points or in the "
    "unit of the labels, with an interval of 95 % from a circular block bootstrap: blocks, as errors near in time are "
    "alike. An interval that holds 0 shows no difference. Each interval stands by itself: of twenty, one may be wrong.",
    "kappa-T": "1 - error / error of always giving the label of the row before, known at once: below 0, the order of "
    "the rows says more than the model; with late labels nobody could have given it.",
    "worst class": "The smallest share of right answers that any class has, in percent.",
    "learning": "Processor time of all updates after the warm-up.",
    "trained": "Rows that went through the model to be learned after the warm-up, each time that they did, with those "
    "that a method replays.",
    "kept": "The most labelled rows that had to be kept at one time after the warm-up.",
    "updates": "How often the model became another one after the warm-up.",
    "age": "How long ago the newest row was asked whose label had been learned when an answer was given: the mean, and "
    "what 95 of 100 answers stay below, in rows where the log has no times. The delay of labels is part of it.",
}

COLUMNS = tuple(
    Column(title, meaning, "classification" if title in {"kappa-T", "worst class"} else "both")
    for title, meaning in _MEANINGS.items()
)
"""All of them, in order."""


def cells(outcome: Outcome, verdict: Verdict, *, timed: bool) -> dict[str, str]:
    """What stands in each column."""
    effort, learning = outcome.effort, outcome.seconds["learning"]
    readings = outcome.readings
    return {
        "error": number(outcome.error, verdict),
        "behind the best": behind(outcome, verdict),
        "kappa-T": _signed(readings.get("kappa_t")),
        "worst class": wording.level(readings.get("worst_recall")),
        "learning": wording.duration(learning) if effort.trained else "0",
        "trained": f"{effort.trained:,}",
        "kept": f"{effort.kept:,}",
        "updates": f"{effort.updates:,}",
        "age": f"{_age(outcome.age, timed=timed)} ({_age(outcome.age95, timed=timed)})",
    }


def _age(age: float, *, timed: bool) -> str:
    return said(age, timed=True) if timed else f"{age:,.0f}"


def number(value: float, verdict: Verdict) -> str:
    """An error as it stands in a table."""
    return f"{value:.4g}" if verdict.regression else f"{100 * value:.1f} %"


def behind(outcome: Outcome, verdict: Verdict) -> str:
    """How far it is behind the best, and the interval."""
    if outcome is verdict.best:
        return "best"
    found = verdict.behind[outcome.name]
    low, mean, high = (_difference(value, verdict) for value in (found.low, found.mean, found.high))
    return f"{mean} [{low}, {high}]"


def _difference(value: float, verdict: Verdict) -> str:
    text = f"{abs(value):.3g}" if verdict.regression else f"{100 * abs(value):.1f}"
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return wording.UNKNOWN
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
