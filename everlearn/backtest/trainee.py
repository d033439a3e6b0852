"""A model that reads records of a log: trained in passes over some rows, or by a step for a few."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from everlearn.backtest.setup import Setup
from everlearn.batch import Batch, join
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods import METHODS
from everlearn.methods.composition import build
from everlearn.online.encoding import row_ids
from everlearn.online.engine import Online
from everlearn.online.making import make_online
from everlearn.randomness import mix
from everlearn.spec import parse_chain
from everlearn.streams.experience import Experience
from everlearn.streams.feed import Label, Record

PART = 4096
"""Rows that are records at one time, at most."""


class Passed:
    """Counts the rows that go through a model to be learned, with what is replayed, and through copies of it."""

    def __init__(self) -> None:
        self.rows = 0

    def count(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Called with all that a model reads, in training, estimates and answers."""
        if module.training and torch.is_grad_enabled():
            self.rows += len(given[0])

    def taken(self) -> int:
        """Those since somebody last took note."""
        rows, self.rows = self.rows, 0
        return rows

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passed":
        return self


class Trainee:
    """The model of a setup, with a method that holds on to the old; the same one each time that it is made.

    With `borders` it is never asked to learn without: then a method may need them. `passed` counts what is learned.
    """

    def __init__(
        self, setup: Setup, method: str, model: str = "", *, borders: bool = True, passed: "Passed | None" = None
    ) -> None:
        self.archive, self.setup, self.method = setup.archive, setup, method
        task: Literal["regression", "classification"] = "regression" if setup.archive.regression else "classification"
        online = make_online(
            model=model or setup.model,
            method="naive" if borders else method,
            optimizer=setup.optimizer,
            task=task,
            seed=setup.seed,
            encoder=setup.encoder,
            fields=setup.fields,
            classes=setup.classes,
            scale=setup.scale,
            clip=setup.clip or None,
        )
        if borders:
            _fits(method)
        learner = Learner(
            online.learner.model,
            build(method, seed=mix(setup.seed, 2), regression=setup.archive.regression)
            if borders and method != "naive"
            else online.learner.method,
            online.learner.objective,
            optimizer=online.learner.make_optimizer,
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            seed=setup.seed,
            clip=setup.clip or None,
        )
        self.online = Online(learner, online.encoder, head=online.head, seed=online.seed)
        self.passed = passed or Passed()
        assert self.online.scale is not None  # noqa: S101 (make_online puts one in front of each model)
        self.online.scale.register_forward_pre_hook(self.passed.count)

    @property
    def remembered(self) -> int:
        """How many rows its method keeps."""
        return _remembered(self.online.learner.method)

    def fit(self, rows: Sequence[int], epochs: int) -> None:
        """Learns rows in several passes, as one experience."""
        learner = self.online.learner
        columns = Columns(self._admitted(rows))
        learner.epochs = epochs
        learner.learn(Experience(learner.experience, columns, columns))
        learner.epochs = self.setup.epochs  # a state is of one setting
        self.online.steps = learner.number

    def observe(self, rows: Sequence[int]) -> None:
        """Learns rows in one step."""
        self.online.learn(self.archive.records(rows), self.archive.labels(rows))

    def answer(self, rows: Sequence[int]) -> list[Label]:
        """What the model says of rows. Nothing changes."""
        return [prediction.answer for prediction in self.online.predict(self.archive.records(rows))]

    def _parts(self, rows: Sequence[int]) -> Iterator[tuple[list[Record], list[Label]]]:
        """Rows and labels, never many at once: as records they take a multiple of what they take as numbers."""
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            yield self.archive.records(part), self.archive.labels(part)

    def _admitted(self, rows: Sequence[int]) -> Batch:
        """The rows as a batch with labels, once there is room for what is new in them, and they count for the scale."""
        online = self.online
        encoder = online.encoder
        parts: list[tuple[int, Batch]] = []
        while not parts or parts[0][0] < encoder.width:  # what came with a later part is missing in the first
            parts = []
            for records, labels in self._parts(rows):
                if not encoder.knows(records, labels):
                    encoder = deepcopy(encoder) if encoder is online.encoder else encoder
                    encoder.admit(records, labels)
                columns: Batch = {"y": encoder.targets(records, labels), "id": row_ids(records)}
                parts.append((encoder.width, encoder.encode(records) | columns))
        if encoder is not online.encoder:
            if online.learner.number and encoder.width > online.inputs:
                _widens(self.method, encoder.columns[online.inputs :])
            online.grow(encoder)
        return online.count(join(*(part for _, part in parts)))

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return self.online.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        self.online.load_state_dict(state)


def _remembered(method: Method) -> int:
    """The rows in all memories of a method or chain."""
    if isinstance(method, Chain):
        return sum(map(_remembered, method.methods))
    return sum(len(value) for value in vars(method).values() if isinstance(value, Memory))


SIZED = frozenset({"delta", "featdistill", "gpm", "icarl", "inflora", "lora", "lwf", "lwfmc", "olora"})
"""Methods that keep what belongs to the inputs as they were: teachers, features, bases, low-rank parts."""


def _widens(method: str, columns: Sequence[str]) -> None:
    """Raises a ValueError for a method that cannot follow when rows bring new columns."""
    if sized := [spec.name for spec in parse_chain(method) if spec.name in SIZED]:
        raise ValueError(
            f"rows bring what was not there in the warm-up, {', '.join(map(repr, columns[:5]))}, and {sized[0]} keeps "
            "a part of the model as wide as it was; leave that column out (--features), take a longer --warmup, or "
            "another method, as er or ewc"
        )


def _fits(method: str) -> None:
    """Raises a ValueError for a method that labelled rows without tasks are not enough for."""
    for spec in parse_chain(method):
        card = METHODS[spec.name].card
        if "task labels" in card.needs:
            raise ValueError(f"{spec.name} needs to know which task a row is of, and a log does not say")
        if card.family in {"adaptation", "test time"}:
            raise ValueError(f"{spec.name} learns from rows without labels, and here each row's label comes in the end")
