"""The raw scores, time by experience, with counts: every metric is computed from them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from everlearn.metrics.evaluate import Kind, Result


@dataclass(frozen=True)
class Score:
    """One measurement: how well the model did on one experience, at one moment.

    `step` is the number of optimizer steps taken so far. `after` is the experience being learned (`final` is
    False), or just learned (`final` is True); -1 stands for the time before the first. `on` is the experience
    whose test rows were asked. `correct`, `count`, `by_class` and `loss` are those of a `Result`.
    """

    step: int
    after: int
    on: int
    correct: float
    count: int
    by_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    loss: float | None = None
    final: bool = True

    @property
    def value(self) -> float:
        """The accuracy in [0, 1], or the mean error; nan where no row was counted."""
        return self.correct / self.count if self.count else float("nan")


class Moments(NamedTuple):
    """All measurements from the first experience on, in time: N moments by T experiences.

    `values` (N, T) float64, nan where not measured; `after` (N,) int64, the experience being learned or just
    learned; `final` (N,) bool; `step` (N,) int64.
    """

    values: Tensor
    after: Tensor
    final: Tensor
    step: Tensor


class Scores:
    """The scores of one run: what was measured, when, on what, and how many rows that was.

    `kind` is "accuracy" (more is better) or "error" (less is better). `names` are the names of the
    experiences, as far as they have names.

    >>> scores = Scores(names=["digits 0-4", "digits 5-9"])
    >>> scores.add(Result(correct=48, count=50), after=0, on=0, step=10)
    >>> scores.add(Result(correct=40, count=50), after=1, on=0, step=20)
    >>> scores.add(Result(correct=99, count=100), after=1, on=1, step=20)
    >>> scores.matrix()
    tensor([[0.9600,    nan],
            [0.8000, 0.9900]], dtype=torch.float64)
    """

    def __init__(self, *, kind: Kind = "accuracy", names: Iterable[str] = ()) -> None:
        if kind not in {"accuracy", "error"}:
            raise ValueError(f"kind must be 'accuracy' or 'error', but it is {kind!r}")
        self.kind: Kind = kind
        self.names = list(names)
        self.notes: dict[int, dict[str, float]] = {}
        self._scores: dict[tuple[int, int, int, bool], Score] = {}

    @classmethod
    def of(
        cls,
        matrix: Tensor | Sequence[Sequence[float]],
        counts: int | Sequence[int],
        *,
        kind: Kind = "accuracy",
        names: Iterable[str] = (),
    ) -> Self:
        """The scores behind a published T x T matrix (nan where not measured).

        `counts` is the number of test rows of each experience, or one number for all.

        >>> Scores.of([[0.9, math.nan], [0.5, 0.8]], counts=10).learned
        2
        """
        rows = torch.as_tensor(matrix, dtype=torch.float64)
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1]:
            raise ValueError(f"an accuracy matrix is square, but this one has shape {tuple(rows.shape)}")
        sizes = [counts] * len(rows) if isinstance(counts, int) else list(counts)
        if len(sizes) != len(rows):
            raise ValueError(f"there are {len(rows)} experiences, but {len(sizes)} counts")
        scores = cls(kind=kind, names=names)
        for after, row in enumerate(rows.tolist()):
            for on, value in enumerate(row):
                if not math.isnan(value):
                    result = Result(correct=value * sizes[on], count=sizes[on])
                    scores.add(result, after=after, on=on, step=after + 1)
        return scores

    def add(self, result: Result, *, after: int, on: int, step: int, final: bool = True) -> None:
        """Keeps what was found on experience `on`, while (`final=False`) or after learning `after`.

        `after=-1` is the baseline: the model before its first experience. Measuring again at the same
        moment replaces the first measurement; `matrix` holds the latest final one of each pair.
        """
        if after < -1 or on < 0 or step < 0:
            raise ValueError(
                f"experiences count from 0 (-1: before the first) and steps from 0, but {after=}, {on=}, {step=}"
            )
        if not math.isfinite(result.correct) or result.correct < 0 or result.count < 0:
            raise ValueError(f"correct and count must be finite and not negative, but they are {result}")
        if self.kind == "accuracy" and result.correct > result.count * (1 + 1e-9):
            raise ValueError(f"{result.correct} right answers among {result.count} rows: is this an error?")
        found = (result.correct, result.count, result.by_class, result.loss)
        self._keep(Score(step, after, on, *found, final=final or after < 0))

    def note(
        self,
        after: int,
        *,
        seconds: float | None = None,
        memory_bytes: int | None = None,
        memory_rows: int | None = None,
    ) -> None:
        """Keeps what learning experience `after` cost: time, and the size of what is stored after it."""
        given = {"seconds": seconds, "memory_bytes": memory_bytes, "memory_rows": memory_rows}
        for name, value in given.items():
            if value is not None:
                if not math.isfinite(value) or value < 0:
                    raise ValueError(f"{name} must be finite and not negative, but it is {value}")
                self.notes.setdefault(after, {})[name] = value

    @property
    def learned(self) -> int:
        """T: how many experiences were finished, as far as the scores tell."""
        return 1 + max((score.after for score in self if score.final), default=-1)

    def name(self, index: int) -> str:
        """The name of experience `index`."""
        return self.names[index] if index < len(self.names) else f"experience {index}"

    def matrix(self) -> Tensor:
        """R, shape (T, T) float64: R[i, j] is the value on experience j after finishing i, nan if unknown."""
        square = torch.full((self.learned, self.learned), math.nan, dtype=torch.float64)
        for score in self._square():
            square[score.after, score.on] = score.value
        return square

    def counts(self) -> Tensor:
        """The number of test rows behind each entry of `matrix`, shape (T, T) int64; 0: not measured."""
        square = torch.zeros((self.learned, self.learned), dtype=torch.int64)
        for score in self._square():
            square[score.after, score.on] = score.count
        return square

    @property
    def baseline(self) -> Tensor:
        """The values before the first experience, shape (T,) float64, nan where not measured."""
        row = torch.full((self.learned,), math.nan, dtype=torch.float64)
        for score in self:
            if score.after < 0 and score.on < len(row):
                row[score.on] = score.value
        return row

    def at(self, after: int, on: int) -> Score | None:
        """The latest final score on experience `on` after finishing `after`; None where there is none."""
        found = [score for score in self if score.final and (score.after, score.on) == (after, on)]
        return found[-1] if found else None

    def anytime(self) -> Moments:
        """Every measurement from the first experience on, those in the middle of an experience included."""
        rows: dict[tuple[int, int], dict[int, Score]] = {}
        for score in sorted(self, key=lambda score: (score.after, score.step, score.final)):
            if score.after >= 0 and score.count:
                rows.setdefault((score.after, score.step), {})[score.on] = score
        width = max([self.learned, *(1 + score.after for score in self)])
        values = torch.full((len(rows), width), math.nan, dtype=torch.float64)
        for row, scores in zip(values, rows.values(), strict=True):
            for on, score in scores.items():
                if on < width:
                    row[on] = score.value
        return Moments(
            values=values,
            after=torch.tensor([after for after, _ in rows], dtype=torch.int64),
            final=torch.tensor([any(s.final for s in scores.values()) for scores in rows.values()], dtype=torch.bool),
            step=torch.tensor([step for _, step in rows], dtype=torch.int64),
        )

    def __iter__(self) -> Iterator[Score]:
        return iter(self._scores.values())

    def __len__(self) -> int:
        return len(self._scores)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "notes": {str(after): dict(note) for after, note in self.notes.items()},
            "scores": [
                asdict(score) | {"by_class": {name: list(pair) for name, pair in score.by_class.items()}}
                for score in self
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, also after a trip through JSON."""
        if state["kind"] not in {"accuracy", "error"}:
            raise ValueError(f"kind must be 'accuracy' or 'error', but the state has {state['kind']!r}")
        self.kind = state["kind"]
        self.names = list(state["names"])
        self.notes = {int(after): dict(note) for after, note in state["notes"].items()}
        self._scores = {}
        for entry in state["scores"]:
            by_class = {name: (int(right), int(rows)) for name, (right, rows) in entry["by_class"].items()}
            self._keep(Score(**{**entry, "by_class": by_class}))

    def _keep(self, score: Score) -> None:
        key = (score.step, score.after, score.on, score.final)
        self._scores.pop(key, None)  # what was measured last stands last
        self._scores[key] = score

    def _square(self) -> Iterator[Score]:
        learned = self.learned
        return (score for score in self if score.final and score.after >= 0 and score.on < learned)
