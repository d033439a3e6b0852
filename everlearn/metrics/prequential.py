"""Prequential evaluation: each row is answered before it is learned, and the answers that were served are counted.

Dawid, Statistical theory: the prequential approach, 1984; for streams, Gama et al., Machine Learning 2013.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from everlearn.batch import UNLABELED, Batch, tensor
from everlearn.metrics.answers import Answers
from everlearn.metrics.evaluate import Kind
from everlearn.metrics.forecasts import Forecasts
from everlearn.streams.feed import Label

KEPT = 1000
"""How many snapshots there are at most."""


class Prequential:
    """What became of the answers of a model on a stream, offline and live alike.

    `kind="accuracy"` counts classes by name (or position), `kind="error"` numbers. `update` takes the answer that was
    served and the label, in the order in which labels come: with labels that come late, the baselines know the labels
    before, some of which the model may not have known when it answered. Three horizons: the whole stream, its last
    `window` rows, and a past that fades by the factor `fading` a row (its memory is about 1 / (1 - fading) rows).

    `snapshots` are taken each `every` rows; when there are 1,000, each second one goes, and they are taken half as
    often. So memory is bounded, whatever the length of the stream: the window, a count for each pair of classes that
    came, and the snapshots. An update takes the same time at any row.

    >>> score = Prequential(window=2)
    >>> for predicted, actual in [("rain", "rain"), ("sun", "rain"), ("sun", "sun")]:
    ...     score.update(predicted, actual)
    >>> reading = score.reading()
    >>> reading["rows"], round(reading["accuracy"], 2), reading["windowed"], reading["recall[rain]"]
    (3, 0.67, 0.5, 0.5)
    """

    def __init__(self, kind: Kind = "accuracy", *, window: int = 1000, fading: float = 0.999, every: int = 10) -> None:
        if kind not in ("accuracy", "error"):
            raise ValueError(f"kind must be 'accuracy' or 'error', but is {kind!r}")
        for name, value in (("window", window), ("every", every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1 row, but is {value}")
        if not 0 < fading <= 1:
            raise ValueError(f"fading must be above 0 and at most 1, which forgets nothing, but is {fading}")
        self.kind, self.window, self.fading, self.every = kind, window, fading, every
        self.tally: Answers | Forecasts = (Answers if kind == "accuracy" else Forecasts)(window, fading)
        self.rows = 0
        self.corrected = 0
        self.stride = every
        self.snapshots: list[dict[str, float]] = []
        """Some of the readings at some rows, the oldest first."""

    def update(self, predicted: Label | None, actual: Label) -> None:
        """Counts a row: the answer that was served for it, and its label. None, where no answer was, is never right.

        Raises a ValueError, and counts nothing, for what is no class (NaN), or no finite number.
        """
        self.tally.add(predicted, actual)
        self.rows += 1
        if self.rows % self.stride == 0:
            if len(self.snapshots) == KEPT:
                self.snapshots = self.snapshots[1::2]
                self.stride *= 2
            if self.rows % self.stride == 0:
                self.snapshots.append(self._now())

    def correct(self, predicted: Label | None, old_actual: Label, new_actual: Label) -> None:
        """Another label for a row that was counted: `predicted` was served, `old_actual` was counted.

        The counts over the whole stream become what they would be had the label been right at once: accuracy, kappa,
        recalls, errors, R2. All else stays as it was counted: the window, the fading past and the snapshots, which
        forget the row in time or tell what was known then; and whether the baselines were right, which depends on
        rows that are not kept. From here on the majority and the mean follow the corrected labels.
        """
        self.tally.correct(predicted, old_actual, new_actual)
        self.corrected += 1

    def reading(self) -> dict[str, float]:
        """All readings by id (see `everlearn.metrics.definitions`), but those without a value, as kappa in one class.

        `recall[NAME]` is that of each class. Intervals are of 95 %: `accuracy_low` and `accuracy_high` (Wilson) take
        rows for independent, which those of a stream are not: errors come in bursts, and the interval is then too
        narrow. `accuracy_block_low` and `accuracy_block_high`, or `mae_block_...`, take blocks of rows for independent,
        and are there from 512 rows on (see `everlearn.metrics.intervals.Blocks`).
        """
        return {**self._now(), **(self.tally.details() if self.rows else {})}

    def curve(self, name: str) -> list[tuple[float, float]]:
        """A reading over time: (rows, value) of each snapshot, and now."""
        moments = self.snapshots
        if self.rows and (not moments or moments[-1]["rows"] < self.rows):
            moments = [*moments, self._now()]
        return [(moment["rows"], moment[name]) for moment in moments if name in moment]

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain values and tensors."""
        names = list(dict.fromkeys(name for moment in self.snapshots for name in moment))
        values = [[moment.get(name, math.nan) for name in names] for moment in self.snapshots]
        return {
            "settings": self._settings(),
            "tally": self.tally.state_dict(),
            "place": [self.rows, self.corrected, self.stride],
            "names": names,
            "snapshots": torch.tensor(values, dtype=torch.float64).reshape(len(values), len(names)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved, with the same settings."""
        if state["settings"] != self._settings():
            raise ValueError(
                f"the state was counted with {state['settings']}, but here is {self._settings()}; go on with the "
                "settings that it began with"
            )
        self.tally.load_state_dict(state["tally"])
        self.rows, self.corrected, self.stride = state["place"]
        self.snapshots = [
            {name: int(value) if name == "rows" else value for name, value in pairs if not math.isnan(value)}
            for pairs in (zip(state["names"], values, strict=True) for values in state["snapshots"].tolist())
        ]

    def _now(self) -> dict[str, float]:
        return {"rows": self.rows} | (self.tally.levels() if self.rows else {})

    def _settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "window": self.window, "fading": self.fading, "every": self.every}


def prequential(
    predict: Callable[[Batch], Tensor],
    learn: Callable[[Batch], object],
    stream: Iterable[Batch],
    score: Prequential | None = None,
) -> Prequential:
    """Goes through batches of a stream once: first `predict`, then `learn`, as `Learner.predict` and `.observe` do.

        prequential(learner.predict, learner.observe, stream)

    For `kind="accuracy"` the answers are the positions of the largest logits, and `y` holds positions; rows with the
    label `UNLABELED` are not counted. Batches of one row are the rule of the field; in larger ones the rows of a batch
    are all answered before one of them is learned.
    """
    score = score or Prequential()
    for batch in stream:
        outputs, y = predict(batch), tensor(batch, "y")
        if bool(outputs.isnan().any()):
            raise ValueError("the model answers NaN, which is no answer; a smaller learning rate usually helps")
        if score.kind == "accuracy":
            for given, actual in zip(outputs.argmax(1).tolist(), y.tolist(), strict=True):
                if actual != UNLABELED:
                    score.update(given, actual)
        else:
            for number, actual in zip(outputs.flatten().tolist(), y.flatten().tolist(), strict=True):
                score.update(number, actual)
        learn(batch)
    return score
