"""Test-time adaptation of a whole stream, beside the model that does not adapt."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from everlearn.batch import UNLABELED, Batch, Rows, length, tensor, unlabeled
from everlearn.border import positive
from everlearn.learner import Learner
from everlearn.method import Chain, Method
from everlearn.methods.testtime import AtTestTime
from everlearn.models.views import bare, snapshot


@dataclass(frozen=True)
class Window:
    """Some batches that came one after the other."""

    batches: int
    rows: int
    labelled: int
    """Rows whose label is known, which alone are counted as right or wrong."""
    right: int
    """Answered rightly, before the step that learns from them."""
    frozen: int
    """Answered rightly by w0 with the statistics of the source: by no adaptation."""
    alarms: int
    """How often the answers collapsed."""
    resets: int
    """How often w0 came back."""

    @property
    def accuracy(self) -> float:
        """The share of right answers, in [0, 1]; NaN where no label is known."""
        return self.right / self.labelled if self.labelled else float("nan")

    @property
    def baseline(self) -> float:
        """That of no adaptation."""
        return self.frozen / self.labelled if self.labelled else float("nan")


@dataclass(frozen=True)
class Adaptation:
    """What came of it, window by window."""

    method: str
    windows: tuple[Window, ...]

    @property
    def whole(self) -> Window:
        """All windows as one."""
        parts = [asdict(window) for window in self.windows]
        return Window(**{name: sum(part[name] for part in parts) for name in Window.__dataclass_fields__})

    @property
    def gain(self) -> float:
        """By how much adaptation is more accurate than none, from -1 to 1; below 0 it does harm."""
        return self.whole.accuracy - self.whole.baseline

    def to_dict(self) -> dict[str, Any]:
        """Counts of all windows, as JSON can hold them."""
        return {"method": self.method, "windows": [asdict(window) for window in self.windows]}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Adaptation":
        """What `to_dict` gave."""
        return cls(saved["method"], tuple(Window(**window) for window in saved["windows"]))

    def __str__(self) -> str:
        """A table in Markdown: adaptation and none, side by side."""
        lines = [f"| rows | no adaptation, % | {self.method}, % | alarms | resets |", "|---|---:|---:|---:|---:|"]
        end = 0
        for window in self.windows:
            first, end = end, end + window.rows
            lines.append(_line(f"{first} to {end - 1}", window))
        return "\n".join([*lines, _line("all", self.whole)])


def _line(name: str, window: Window) -> str:
    shares = [f"{100 * share:.1f}" if window.labelled else "" for share in (window.baseline, window.accuracy)]
    return f"| {' | '.join([name, *shares, str(window.alarms), str(window.resets)])} |"


def adapt(learner: Learner, stream: Rows | Iterable[Batch], *, window: int = 10) -> Adaptation:
    """Lets `learner` adapt to `stream`, batch by batch, and counts what it and the model before got right.

    Rows come in their order, in batches of the learner's size or nearly so, as even as can be. Labels (a column "y"),
    as far as there are any, are counted with, and never shown to the method. `window` is a number of batches. The model
    before is w0 of the method, which may have adapted to other rows already. Raises a ValueError unless the method
    adapts at test time.
    """
    positive(window=window)
    method = _adapting(learner.method)
    before = Learner(
        deepcopy(bare(learner.model)),
        objective=learner.objective,
        optimizer=learner.make_optimizer,
        view=learner.view,
        precision=learner.precision,
    )
    before.model.load_state_dict(snapshot(learner.model) | method.source)
    found: list[Tensor] = []
    sizes: list[int] = []
    earlier = int(method.spread.alarms), int(method.resets)
    for batch in _batches(stream, learner.batch_size) if isinstance(stream, Rows) else stream:
        still = before.predict(batch)
        told = learner.observe(unlabeled(batch)).logits
        y = tensor(batch, "y") if "y" in batch else torch.full((length(batch),), UNLABELED)
        y = y.to(told.device)
        counts = [(y != UNLABELED), told.argmax(-1) == y, still.argmax(-1) == y]
        ends = [count.to(told.device) for count in (method.spread.alarms, method.resets)]
        # Nothing is read here: to read is to wait for the device.
        found.append(torch.stack([*(count.sum() for count in counts), *ends]))
        sizes.append(length(batch))
    if not found:
        raise ValueError("the stream has no batches to adapt to")
    return Adaptation(type(method).__name__, tuple(_windows(torch.stack(found).cpu(), sizes, window, *earlier)))


def _windows(found: Tensor, sizes: list[int], window: int, alarms: int, resets: int) -> Iterator[Window]:
    """Counts of batches, and the totals of alarms and resets after each, in windows; before, these were as given."""
    for start in range(0, len(sizes), window):
        part = found[start : start + window]
        labelled, right, frozen = part[:, :3].sum(0).tolist()
        alarmed, reset = part[-1, 3:].tolist()
        yield Window(
            len(part), sum(sizes[start : start + window]), labelled, right, frozen, alarmed - alarms, reset - resets
        )
        alarms, resets = alarmed, reset


def _batches(rows: Rows, size: int) -> Iterator[Batch]:
    """In order, as even as can be: no batch of a single row is left over, if one has to be larger by a row for that."""
    count = ceil(len(rows) / size) if size == 1 else min(ceil(len(rows) / size), max(1, len(rows) // 2))
    for index in torch.arange(len(rows)).tensor_split(count) if len(rows) else ():
        yield rows.take(index)


def _adapting(method: Method) -> AtTestTime:
    for each in method.methods if isinstance(method, Chain) else (method,):
        if isinstance(each, AtTestTime):
            return each
    raise ValueError(
        f"{method!r} does not adapt at test time; make the learner with AdaBN, TENT, EATA, SAR or CoTTA, alone or last "
        "in a chain"
    )
