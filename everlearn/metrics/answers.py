"""What became of answers that name a class: counts that are kept row by row, and what they say.

Gama et al., On evaluating stream learning algorithms, Machine Learning 2013. doi:10.1007/s10994-012-5320-9
Cohen, A coefficient of agreement for nominal scales, 1960. doi:10.1177/001316446002000104
Bifet et al., Efficient online evaluation of big data stream classifiers, KDD 2015. doi:10.1145/2783258.2783372
Zliobaite et al., Evaluation methods and decision theory for classification of streaming data with temporal dependence,
Machine Learning 2015. doi:10.1007/s10994-014-5441-4
"""

from collections import deque
from typing import Any

import torch

from everlearn.metrics.intervals import Blocks, wilson
from everlearn.streams.feed import Label

Row = tuple[Label, Label | None, bool, bool]
"""The true class, the answer, and whether no-change and the majority would have been right."""


class Counts:
    """How often which class was answered for which, and how often two baselines were right."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[Label | None, Label | None], int] = {}
        """(true class, answer) -> rows."""
        self.actual: dict[Label | None, int] = {}
        """Rows of each class; none is of the class None, which stands for no answer."""
        self.given: dict[Label | None, int] = {}
        self.rows = self.right = self.no_change = self.majority = 0
        self.agreement = 0
        """Of each class, rows times answers, summed: the rows squared, times the agreement that chance gives."""

    def add(self, row: Row, by: int = 1) -> None:
        """Counts a row, or with `by=-1` takes it back."""
        actual, given, no_change, majority = row
        pair = actual, given
        pairs, rows_of, answers_of = self.pairs, self.actual, self.given
        pairs[pair] = count = pairs.get(pair, 0) + by
        if not count:
            del pairs[pair]
        self.rows += by
        if actual == given:
            self.right += by
        if no_change:
            self.no_change += by
        if majority:
            self.majority += by
        # the sum of products changes by what stands on the other side
        self.agreement += by * answers_of.get(actual, 0)
        rows_of[actual] = count = rows_of.get(actual, 0) + by
        if not count:
            del rows_of[actual]
        self.agreement += by * rows_of.get(given, 0)
        answers_of[given] = count = answers_of.get(given, 0) + by
        if not count:
            del answers_of[given]

    def recalls(self) -> dict[Label | None, float]:
        """Of each class that there are rows of, the share that was answered rightly."""
        return {name: self.pairs.get((name, name), 0) / count for name, count in self.actual.items()}

    def levels(self) -> dict[str, float]:
        """The shares and the kappas, as far as they are defined."""
        rows, right = self.rows, self.right
        if not rows:
            return {}
        found = {"accuracy": right / rows, "no_change": self.no_change / rows, "majority": self.majority / rows}
        for name, above, room in (
            ("kappa", right * rows - self.agreement, rows * rows - self.agreement),
            ("kappa_m", right - self.majority, rows - self.majority),
            ("kappa_t", right - self.no_change, rows - self.no_change),
        ):
            if room:  # else the baseline is perfect, and nothing can be better
                found[name] = above / room
        return found | {"worst_recall": min(self.recalls().values())}


class Answers:
    """Answers that name a class, over the whole stream, over its last rows, and with the past fading.

    Two baselines answer beside the model, from the labels counted before: the last class (no-change), and the class
    that there are most rows of, of equals the first to have been (majority). For the first row both are wrong.
    """

    def __init__(self, window: int, fading: float) -> None:
        self.window, self.fading = window, fading
        self.all, self.last = Counts(), Counts()
        self.recent: deque[Row] = deque()
        self.faded = [0.0, 0.0]
        """The faded number of right answers, and of rows: S and N."""
        self.blocks = Blocks()
        self.before: Label | None = None
        self.most: Label | None = None

    def check(self, *labels: Label | None) -> None:
        """Raises a ValueError for what is no class: NaN, which is not even itself."""
        for label in labels:
            if label != label:  # noqa: PLR0124 (that is what NaN is)
                raise ValueError("NaN is no class; give the name of a class, or None where there was no answer")

    def add(self, predicted: Label | None, actual: Label | None) -> None:
        """One row."""
        self.check(predicted, actual)
        if actual is None:
            raise ValueError("the true class is None; a row counts once its label has come")
        right = predicted == actual
        row = actual, predicted, self.before == actual, self.most == actual
        self.all.add(row)
        self.last.add(row)
        self.recent.append(row)
        if len(self.recent) > self.window:
            self.last.add(self.recent.popleft(), -1)
        self.faded = [self.fading * self.faded[0] + right, self.fading * self.faded[1] + 1]
        self.blocks.add(right)
        self.before = actual
        counts = self.all.actual
        if self.most is None or counts[actual] > counts[self.most]:
            self.most = actual

    def correct(self, predicted: Label | None, old: Label, new: Label) -> None:
        """Another label for a row: see `Prequential.correct`."""
        self.check(predicted, old, new)
        if (old, predicted) not in self.all.pairs:
            raise ValueError(
                f"no row of the class {old!r} was answered {predicted!r}, so none can be corrected; give the answer "
                "that was served, and the label that was counted"
            )
        self.all.add((old, predicted, False, False), -1)
        self.all.add((new, predicted, False, False))
        self.most = max(self.all.actual, key=self.all.actual.__getitem__)

    def levels(self) -> dict[str, float]:
        """What is worth a curve over time."""
        found = self.all.levels()
        last = self.last.levels()
        windowed = last.pop("accuracy")
        fading = self.faded[0] / self.faded[1]
        return found | {"windowed": windowed, "fading": fading} | {f"windowed_{name}": v for name, v in last.items()}

    def details(self) -> dict[str, float]:
        """Intervals, and the recall of each class."""
        low, high = wilson(self.all.right, self.all.rows)
        found = {"accuracy_low": low, "accuracy_high": high}
        half = self.blocks.half()
        if half is not None:
            level = self.all.right / self.all.rows
            found |= {"accuracy_block_low": max(level - half, 0.0), "accuracy_block_high": min(level + half, 1.0)}
        return found | {f"recall[{name}]": value for name, value in self.all.recalls().items()}

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain values and tensors."""
        names: dict[Label | None, int] = {}

        def code(name: Label | None) -> int:
            return names.setdefault(name, len(names))

        given = [[code(name), count] for name, count in self.all.given.items()]
        actual = [[code(name), count] for name, count in self.all.actual.items()]
        pairs = [[code(a), code(b), count] for (a, b), count in self.all.pairs.items()]
        recent = [[code(a), code(b), *rest] for a, b, *rest in self.recent]
        return {
            "actual": _table(actual, 2),
            "given": _table(given, 2),
            "pairs": _table(pairs, 3),
            "recent": _table(recent, 4),
            "baselines": [self.all.no_change, self.all.majority],
            "faded": list(self.faded),
            "blocks": self.blocks.state_dict(),
            "before": self.before,
            "most": self.most,
            "names": list(names),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what it was."""
        names: list[Label] = state["names"]
        self.all, self.last = Counts(), Counts()
        for a, b, count in state["pairs"].tolist():
            self.all.pairs[names[a], names[b]] = count
        self.all.actual = {names[a]: count for a, count in state["actual"].tolist()}
        self.all.given = {names[a]: count for a, count in state["given"].tolist()}
        self.all.rows = sum(self.all.actual.values())
        self.all.right = sum(count for (a, b), count in self.all.pairs.items() if a == b)
        self.all.agreement = sum(count * self.all.given.get(name, 0) for name, count in self.all.actual.items())
        self.all.no_change, self.all.majority = state["baselines"]
        self.recent = deque((names[a], names[b], bool(c), bool(d)) for a, b, c, d in state["recent"].tolist())
        for row in self.recent:
            self.last.add(row)
        self.faded = list(state["faded"])
        self.blocks = Blocks(**state["blocks"])
        self.before, self.most = state["before"], state["most"]


def _table(rows: list[list[int]], width: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, width)
