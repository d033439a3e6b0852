"""Unsupervised adaptation: labels in one domain, and questions in another whose labels nobody has seen."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from everlearn.batch import Rows, tensor
from everlearn.bench.domains import Domains, Pair, domains
from everlearn.bench.mnist import Digits
from everlearn.bench.nets import Convolutions, convolutional
from everlearn.data.rows import Columns, Subset
from everlearn.data.transforms import view
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.randomness import mix, unmoved
from everlearn.schedule import inverse_decay
from everlearn.streams.experience import Experience
from everlearn.transfer.selection import ORACLE, Outputs, select
from everlearn.transfer.validators import accuracy

CHOOSERS = {"by im": "im", "by source": "source", ORACLE: "oracle"}
"""Scores, and the validator that chooses the step which they are taken at."""


@dataclass(frozen=True)
class Adapted:
    """Nets for digits, trained on labelled rows of the source and unlabelled ones of the target.

    All scores are accuracies in %. "target" is on the test rows of the target, after the last step; "by im" and "by
    source" at the best of `looks` steps, chosen without target labels; ORACLE at the step that the target's test labels
    choose, which is how most tables of the field were made; "source" on the test rows of the source, after the last
    step. Each random part has a seed of its own, so that rows compare in pairs.
    """

    source: str
    pair: Pair
    net: Convolutions
    lr: float = 0.01
    """The first; it falls as (1 + 10 t)^-0.75, t from 0 to 1."""
    steps: int = 2000
    batch_size: int = 32
    """Of the source, and as many of the target."""
    momentum: float = 0.9
    weight_decay: float = 1e-3
    seen: bool = True
    """Whether the target is there at all; else the same net learns from as many rows of the source alone."""
    before: int = 0
    """Steps on the source alone, before."""
    looks: int = 10
    held: int = 2000
    """Labelled rows of the source that are held out to choose the step by, and unlabelled ones of the target."""
    device: str = "cpu"

    @property
    def chance(self) -> dict[str, float]:
        """One of ten digits."""
        return dict.fromkeys(("target", *CHOOSERS, "source"), 10.0)

    def data(self, folder: Path) -> str:
        """The digest of both domains."""
        return domains(self.pair, folder).digest

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores on these domains."""
        return self.scored(method, seed, domains(self.pair, folder))

    def scored(self, method: str, seed: int, found: Domains) -> dict[str, float]:
        """The scores on any two domains of ten classes."""
        with unmoved(torch.device(self.device)):
            torch.manual_seed(mix(seed, 5))  # what dropout draws from
            return self._scored(method, seed, found)

    def _scored(self, method: str, seed: int, found: Domains) -> dict[str, float]:
        order, other = (_shuffled(len(each.train), mix(seed, 1)) for each in found)
        kept, held = (Subset(found.source.train, part) for part in (order[self.held :], order[: self.held]))
        others = Subset(found.target.train, other[: self.held])
        stream = self._stream(kept, found.target, seed)
        learner = self._learner(method, seed, found.source.train)
        known: dict[str, Outputs] = {}  # by place, what may choose one, and what tells how good it is
        asked: dict[str, Outputs] = {}
        for experience in stream:
            for step in learner.steps(experience):
                if experience is stream[-1] and (step.place % (self.steps // self.looks) == 0 or step.place == step.of):
                    target, _ = _answers(learner, others)
                    known[str(step.place)] = Outputs(target, *_answers(learner, held))
                    logits, labels = _answers(learner, found.target.test)
                    asked[str(step.place)] = Outputs(logits, target_labels=labels)
        right = select(asked, "oracle").scores
        places = {score: select(asked if score == ORACLE else known, by).chosen for score, by in CHOOSERS.items()}
        scores = {score: 100 * right[place].value for score, place in {"target": str(self.steps), **places}.items()}
        return scores | {"source": 100 * accuracy(*_answers(learner, found.source.test))}

    def _stream(self, source: Rows, target: Digits, seed: int) -> list[Experience]:
        """The source alone, if so long; then the target beside it. Each is one epoch of as many batches as steps."""
        plans: list[tuple[Rows, Rows | None, int]] = []
        if self.before:
            plans.append((source, None, self.before))
        unlabelled = Columns(x=target.train.column("x"), id=target.train.column("id"))
        plans.append((unlabelled, source, self.steps) if self.seen else (source, None, self.steps))
        return [
            Experience(
                index, _long(rows, steps * self.batch_size, mix(seed, 2, index)), target.test, DIGITS, None, beside
            )
            for index, (rows, beside, steps) in enumerate(plans)
        ]

    def _learner(self, method: str, seed: int, rows: Rows) -> Learner:
        channels = tensor(rows.take(torch.zeros(1, dtype=torch.int64)), "x").shape[1]
        return Learner(
            convolutional(self.net, channels, len(DIGITS), seed=mix(seed, 3)),
            build(method, seed=mix(seed, 4)),
            optimizer=partial(
                SGD, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0, weight_decay=self.weight_decay
            ),
            scheduler=_falling,
            batch_size=self.batch_size,
            seed=seed,
            view=view(((0.5,), (0.5,))),
            device=self.device,
        )


DIGITS = tuple(range(10))


def _falling(optimizer: Optimizer, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: inverse_decay(step / steps))


def _long(rows: Rows, count: int, seed: int) -> Rows:
    """So many rows: all of them, again and again, and some at random at the end."""
    times = -(-count // len(rows))
    return Subset(rows, torch.cat([_shuffled(len(rows), mix(seed, time)) for time in range(times)])[:count])


def _answers(learner: Learner, rows: Rows) -> tuple[Tensor, Tensor]:
    """The logits for all rows, and their labels, on the CPU."""
    parts = [rows.take(part) for part in torch.split(torch.arange(len(rows)), _ASKED)]
    return torch.cat([learner.predict(part).cpu() for part in parts]), torch.cat([tensor(part, "y") for part in parts])


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


_ASKED = 1000
"""Rows at a time."""
