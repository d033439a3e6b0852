"""Rows that come one after another: each is answered before it is learned, and what is new in it gets room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, tensor
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import links
from everlearn.methods.frozen import Frozen
from everlearn.models.heads import grow
from everlearn.models.standardise import Standardise
from everlearn.models.targets import Targets
from everlearn.models.views import bare
from everlearn.models.widening import grow_inputs, resize_inputs_like
from everlearn.online.encoding import Encoder, row_ids
from everlearn.online.trial import on_trial
from everlearn.streams.feed import Label, Record


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, and which state gave it."""

    id: str
    answer: Label
    """The name of a class, or a number; "" while no class is known."""
    scores: tuple[float, ...] = ()
    """The probabilities of the classes known then, in the order of their outputs; () for a number, or no answer."""
    steps: int = 0
    """How many batches had been learned."""


class Online:
    """A learner on a stream of records: `predict`, then, when the labels are there, `learn`.

    `predict` changes nothing. `learn` makes room for new fields and classes, counts the rows for the scale, and takes
    one step; a batch that is refused leaves everything as it was. The learner's model begins with a `Standardise` where
    inputs are to be scaled, and ends with `Targets` where numbers to be predicted are; answers are in the user's units,
    the loss and the logits of the learner in those of `Targets`. Rows are handed to the learner as they are: what a
    memory keeps is raw.
    """

    def __init__(self, learner: Learner, encoder: Encoder, *, head: str | None = None, seed: int = 0) -> None:
        for method in links(learner.method):
            if any(isinstance(value, Memory) and value.folder is not None for value in vars(method).values()):
                raise ValueError("rows on disk cannot follow a growing table; keep the memory in RAM: leave folder out")
        self.learner, self.encoder = learner, encoder
        self.head, self.seed = head, seed
        self.steps = 0
        scales = [module for module in bare(learner.model).modules() if isinstance(module, Standardise)]
        self.targets = next((each for each in scales if isinstance(each, Targets)), None)
        self.scale = next((each for each in scales if each is not self.targets), None)
        self.inputs = encoder.width
        """What the model reads."""
        self._before: list[Tensor] = []  # the statistics of both before the last step

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """The answers. Before any class is known an answer is "", without scores."""
        if not records:
            return []
        classes = self.encoder.classes
        if classes is not None and (not len(classes) or (self.learner.method.own_answers and not self.steps)):
            return [Prediction(record.id, "", (), self.steps) for record in records]
        logits = self.learner.predict(self.encoder.encode(records))
        if classes is None:
            answers: list[float] = logits.reshape(len(records), -1)[:, 0].tolist()
            if self.targets is not None:
                answers = self.targets.answers(answers)
            return [Prediction(r.id, answer, (), self.steps) for r, answer in zip(records, answers, strict=True)]
        names = classes.names
        rows = logits[:, : len(names)].float().softmax(1).tolist()
        return [
            Prediction(record.id, names[row.index(max(row))], tuple(row), self.steps)
            for record, row in zip(records, rows, strict=True)
        ]

    def learn(self, records: Sequence[Record], labels: Sequence[Label]) -> float | None:
        """Learns the rows as one batch; gives the loss, or None where the method has none.

        A `RowError` or a `NonFiniteError` leaves everything as it was before.
        """
        if len(records) != len(labels):
            raise ValueError(f"there are {len(records)} records, but {len(labels)} labels")
        if not records:
            return None
        if self.encoder.knows(records, labels):
            return self._step(self._batch(records, labels))
        inputs, sizes = self.inputs, self.encoder.sizes
        self.encoder.admit(records, labels)
        try:
            batch = self._batch(records, labels)
            with on_trial(self.learner, inputs):
                self.grow(self.encoder)
                return self._step(batch)
        except BaseException:
            self.encoder.cut(sizes)
            self.inputs = inputs
            raise

    def grow(self, encoder: Encoder) -> None:
        """Reads rows by `encoder` from now on, which has met more: model and method get room for that."""
        with self.learner.changing() as model:
            if encoder.width > self.inputs:
                if self.scale is not None:
                    self.scale.grow(encoder.left[self.inputs :])
                grow_inputs(self._body(model), self.inputs, encoder.width, seed=self.seed)
                self.inputs = encoder.width
                self._widen_method(model)
            if encoder.classes is not None and not self.learner.method.own_answers:
                grow(model, len(encoder.classes), self.head, seed=self.seed)
        self.encoder = encoder

    def count(self, batch: Batch) -> Batch:
        """Counts the rows of `batch` for the scales, and gives it as it is to be learned."""
        if self.targets is not None:
            self.targets.update(tensor(batch, "y").view(-1, 1))
        return batch if self.scale is None else batch | {"x": self.scale.update(tensor(batch, "x"))}

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain values: who loads it goes on like it, bit for bit."""
        return {"encoder": self.encoder.state_dict(), "learner": self.learner.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved, of whatever size that was."""
        self.encoder.load_state_dict(state["encoder"])
        resize_inputs_like(self.learner.model, state["learner"]["model"], self.inputs, self.encoder.width)
        self.learner.load_state_dict(state["learner"])
        self.inputs, self.steps = self.encoder.width, state["steps"]

    # -- inside -----------------------------------------------------------------------------------------------

    def _batch(self, records: Sequence[Record], labels: Sequence[Label]) -> Batch:
        encoder = self.encoder
        return encoder.encode(records) | {"y": encoder.targets(records, labels), "id": row_ids(records)}

    def _step(self, batch: Batch) -> float | None:
        statistics = [each for scale in (self.scale, self.targets) if scale is not None for each in scale.statistics]
        if not statistics:
            output = self.learner.observe(batch)
        else:
            if not self._before or self._before[0].shape != statistics[0].shape:
                self._before = [statistic.clone() for statistic in statistics]
            torch._foreach_copy_(self._before, statistics)
            try:
                output = self.learner.observe(self.count(batch))
            except Exception:
                torch._foreach_copy_(statistics, self._before)
                raise
        self.steps += 1
        return None if output.loss is None else output.loss.item()

    def _widen_method(self, model: nn.Module) -> None:
        """What the method keeps of rows, or of features that are the rows, gets room for the new columns."""
        for method in links(self.learner.method):
            for value in vars(method).values():
                if isinstance(value, Memory):
                    value.widen("x", self.inputs)
            if isinstance(method, Frozen) and len(method.counts) and not any(True for _ in model.parameters()):
                method.widen(self.inputs)

    def _body(self, model: nn.Module) -> nn.Module:
        """What reads the scaled rows."""
        if isinstance(model, nn.Sequential) and len(model) and model[0] is self.scale:
            return model[1]
        return model
