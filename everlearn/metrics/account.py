"""What is said about one run: read once, and shown by the table, the page and the JSON alike."""

# ruff: noqa: N803 (R is what the field calls the matrix)

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everlearn.metrics.catalogue import read
from everlearn.metrics.scores import Moments, Scores


@dataclass(frozen=True)
class ClassChange:
    """One class: its value when it was learned and after the last experience, over `count` test rows."""

    name: str
    before: float
    after: float
    count: int

    @property
    def change(self) -> float:
        """What became of it: negative where it was forgotten."""
        return self.after - self.before


@dataclass(frozen=True)
class Update:
    """What the last experience did: means over the old experiences before and after it, and the new one."""

    old_before: float | None
    old_after: float | None
    new_before: float | None
    new_after: float | None


@dataclass(frozen=True)
class Account:
    """One run: its scores, the matrix, all readings, the last update, and what became of each class."""

    name: str
    scores: Scores
    matrix: Tensor
    moments: Moments
    readings: dict[str, float]
    missing: dict[str, str]
    update: Update
    classes: tuple[ClassChange, ...]

    @classmethod
    def of(cls, name: str, scores: Scores) -> "Account":
        """What the scores of the run `name` say."""
        values, missing = read(scores)
        matrix = scores.matrix()
        return cls(name, scores, matrix, scores.anytime(), values, missing, _update(matrix), _classes(scores))

    @property
    def learning(self) -> int:
        """How many experiences were begun: those learned, and one that is being learned."""
        return self.moments.values.shape[1]

    @property
    def average(self) -> float | None:
        """The average accuracy (or error) after the last experience."""
        return self.readings.get("average_accuracy")

    @property
    def forgetting(self) -> float | None:
        """Forgetting as Chaudhry et al. 2018 define it."""
        return self.readings.get("forgetting")

    @property
    def final(self) -> list[float | None]:
        """The value on each experience after the last one."""
        return [_known(value) for value in self.matrix[-1]] if len(self.matrix) else []

    def total(self, note: str) -> float | None:
        """The sum over experiences of a note such as "seconds"; None where it was never noted."""
        values = [notes[note] for notes in self.scores.notes.values() if note in notes]
        return sum(values) if values else None

    def latest(self, note: str) -> float | None:
        """The last value of a note such as "memory_bytes"; None where it was never noted."""
        values = [notes[note] for _, notes in sorted(self.scores.notes.items()) if note in notes]
        return values[-1] if values else None

    def to_json(self) -> dict[str, Any]:
        """Everything about the run, as plain JSON values; what was not measured is null."""
        update = self.update
        return {
            f"average_{self.scores.kind}": self.average,
            "forgetting": self.forgetting,
            "readings": self.readings,
            "not_measured": self.missing,
            "experiences": [self.scores.name(j) for j in range(len(self.matrix))],
            "matrix": [[_known(value) for value in row] for row in self.matrix],
            "counts": self.scores.counts().tolist(),
            "baseline": [_known(value) for value in self.scores.baseline],
            "last_update": {
                "old": {"before": update.old_before, "after": update.old_after},
                "new": {"before": update.new_before, "after": update.new_after},
            },
            "classes": {
                entry.name: {"before": entry.before, "after": entry.after, "count": entry.count}
                for entry in self.classes
            },
            "scores": self.scores.state_dict(),
        }


def _known(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def _update(R: Tensor) -> Update:
    if not len(R):
        return Update(None, None, None, None)
    if len(R) == 1:
        return Update(None, None, None, _known(R[0, 0]))
    return Update(_known(R[-2, :-1].mean()), _known(R[-1, :-1].mean()), _known(R[-2, -1]), _known(R[-1, -1]))


def _classes(scores: Scores) -> tuple[ClassChange, ...]:
    """The classes of the experiences before the last, those that lost most first."""
    last = scores.learned - 1
    sums: dict[str, list[int]] = {}
    for on in range(last):
        first, now = scores.at(on, on), scores.at(last, on)
        if first is None or now is None:
            continue
        for name in first.by_class.keys() & now.by_class.keys():
            pairs = (*first.by_class[name], *now.by_class[name])
            sums[name] = [a + b for a, b in zip(sums.get(name, [0] * 4), pairs, strict=True)]
    changes = [ClassChange(name, was / asked, known / of, of) for name, (was, asked, known, of) in sums.items()]
    return tuple(sorted(changes, key=lambda entry: (entry.change, entry.name)))
