"""Reviews of products: is one content or not? Books, films, electronics and kitchenware arrive one after another."""

import csv
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD

from everlearn.batch import UNLABELED, Rows
from everlearn.data.hashing import bag_of_words, row_ids
from everlearn.data.rows import Columns, Subset, With
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.metrics.readings import average_accuracy, forgetting
from everlearn.metrics.scores import Scores
from everlearn.models.nets import MLP
from everlearn.randomness import mix, seeded
from everlearn.streams.experience import Experience

DOMAINS = ("books", "dvd", "electronics", "kitchen")
WORDS = 1 << 12
"""Words and pairs of words, by hash."""


class Reviews(NamedTuple):
    """The reviews of each domain, half of them to learn from; x (n, WORDS) says which words are in, of length 1."""

    train: tuple[Rows, ...]
    test: tuple[Rows, ...]
    digest: str


@dataclass(frozen=True)
class Reviewed:
    """A hidden layer over bags of words, on four domains in turn, with or without the labels of those after the first.

    "accuracy" is over all domains after the last, in %, "first" that on the first, "others" on the others,
    "forgetting" in points. Without labels (`labelled` = False) domains after the first are learned beside the first.
    """

    source: str
    labelled: bool = True
    reference: bool = False
    """Whether the first domain stays there, beside those without labels; else the method has what it kept."""
    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 32

    @property
    def chance(self) -> dict[str, float]:
        """One of two."""
        return dict.fromkeys(("accuracy", "first", "others"), 50.0)

    def data(self, folder: Path) -> str:
        """The digest of the reviews."""
        return reviews(folder).digest

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores on the Amazon reviews of Blitzer et al."""
        return self.scored(method, seed, reviews(folder))

    def scored(self, method: str, seed: int, found: Reviews) -> dict[str, float]:
        """The scores on any reviews."""
        with seeded(mix(seed, 3)):
            model = MLP(WORDS, (64,), 2)
        learner = Learner(
            model,
            build(method, seed=mix(seed, 4)),
            optimizer=partial(SGD, lr=self.lr, momentum=0.9),
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
        )
        scores = Scores()
        with seeded(mix(seed, 5)):  # what dropout draws from
            for experience in self._stream(found):
                learner.learn(experience)
                for on, test in enumerate(found.test):
                    if on <= experience.index or experience.index == 0:
                        result = learner.evaluate(test, batch_size=500)
                        scores.add(result, after=experience.index, on=on, step=learner.number)
        last = [learner.evaluate(test, batch_size=500).value for test in found.test]
        return {
            "accuracy": 100 * average_accuracy(scores.matrix()),
            "first": 100 * last[0],
            "others": 100 * sum(last[1:]) / len(last[1:]),
            "forgetting": 100 * forgetting(scores.matrix()),
        }

    def _stream(self, found: Reviews) -> list[Experience]:
        first, *others = (Experience(i, train, found.test[i], (0, 1)) for i, train in enumerate(found.train))
        if self.labelled:
            return [first, *others]
        beside = first.train if self.reference else None
        return [
            first,
            *(Experience(e.index, With(e.train, y=UNLABELED), e.test, (0, 1), reference=beside) for e in others),
        ]


@cache
def reviews(folder: Path) -> Reviews:
    """The reviews; a ValueError that says what is missing."""
    file = folder / "text" / "amazon4_reviews.tsv.gz"
    if not file.is_file():
        raise ValueError(f"there are no reviews in {folder}: expected text/amazon4_reviews.tsv.gz")
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    domains = [_domain(name, [row for row in rows if row["domain"] == name]) for name in DOMAINS]
    parts = [
        (Subset(each, torch.arange(0, len(each), 2)), Subset(each, torch.arange(1, len(each), 2))) for each in domains
    ]
    train, test = zip(*parts, strict=True)
    return Reviews(train, test, hashlib.sha256(file.read_bytes()).hexdigest()[:16])


def _domain(name: str, rows: list[dict[str, str]]) -> Rows:
    x = torch.stack([words(row["text"]) for row in rows])
    y = torch.tensor([int(row["label"] in {"positive", "1", "pos"}) for row in rows])
    return Columns(x=x, y=y, id=row_ids(f"amazon/{name}", len(rows)))


def words(text: str) -> Tensor:
    """Which words and pairs of words are in a text, (WORDS,), as a vector of length 1."""
    return bag_of_words(text, WORDS)
