"""everlearn itself on trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import tensor
from everlearn.conformance.nets import WIDTH
from everlearn.conformance.subject import History, NotOfferedError, Setup, Subject
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods import METHODS, GrowHead
from everlearn.metrics import Scores, evaluate, read
from everlearn.streams import Experience


@dataclass(frozen=True)
class Entry:
    """A method on trial."""

    make: Callable[[Setup], Method]
    traits: frozenset[str] = frozenset()
    frozen: bool = False
    """Whether it wants a body that does not train."""
    declined: str = ""
    """Why it is not on trial."""


class Everlearn:
    """The methods of everlearn, or those given: a method of your own is tried by an entry of its own."""

    name = "everlearn"

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.entries = registered() if entries is None else entries

    @property
    def methods(self) -> Mapping[str, frozenset[str]]:
        """Those of the entries."""
        return {name: entry.traits for name, entry in self.entries.items()}

    def subject(self, method: str, setup: Setup) -> Subject:
        """A learner."""
        entry = self.entries[method]
        if entry.declined:
            raise NotOfferedError(entry.declined)
        if entry.frozen:
            setup.model.body.requires_grad_(requires_grad=False)
        built = entry.make(setup)
        learner = Learner(
            setup.model,
            Chain(GrowHead(), built) if setup.growing else built,
            optimizer=setup.optimizer,
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            seed=setup.seed,
        )
        return OwnSubject(learner, setup)

    def readings(self, history: History) -> Mapping[str, float]:
        """All that the scores allow."""
        scores = Scores()
        for after, asked in enumerate(history):
            for on, (y, given) in enumerate(asked):
                answers = F.one_hot(given, int(max(y.max(), given.max())) + 1).float()
                right = evaluate(lambda batch: tensor(batch, "x"), Columns(x=answers, y=y))
                scores.add(right, after=after, on=on, step=after + 1)
        return read(scores)[0]


class OwnSubject:
    """A learner of everlearn, behind the verbs of a `Subject`."""

    def __init__(self, learner: Learner, setup: Setup) -> None:
        self.learner, self.setup = learner, setup

    @property
    def model(self) -> nn.Module:
        """Its model."""
        return self.learner.model

    def learn(self, x: Tensor, y: Tensor, *, steps: int | None = None) -> None:
        """As the rows of the next experience, or of the one that was left off."""
        rows, classes = Columns(x=x, y=y), tuple(torch.unique(y).tolist())
        for taken, _ in enumerate(self.learner.steps(Experience(self.learner.experience, rows, rows, classes)), 1):
            if taken == steps:
                break

    def predict(self, x: Tensor) -> Tensor:
        """As a batch of one column."""
        return self.learner.predict(self.setup.lend({"x": x}))

    def evaluate(self, x: Tensor, y: Tensor) -> float:
        """By `Learner.evaluate`."""
        return self.learner.evaluate(Columns(x=x, y=y)).value

    def save(self) -> Any:
        """What was read back from a file."""
        with TemporaryDirectory() as folder:
            checkpoint.save(self.learner.state_dict(), Path(folder) / "checkpoint")
            return checkpoint.load(Path(folder) / "checkpoint")

    def load(self, saved: Any) -> None:
        """From that."""
        self.learner.load_state_dict(saved)


_STRENGTHS = {
    "ewc": "lambda_", "si": "c", "mas": "lambda_", "rwalk": "lambda_", "l2": "lambda_", "lwf": "lambda_o",
    "logitadj": "tau",
}  # fmt: skip
"""The field that multiplies what a method adds to the loss."""
_TRAITS = {
    "er": {"uniform"},
    "erace": {"uniform"},
    "mir": {"uniform"},
    "scr": {"uniform"},
    "der": {"uniform"},
    "derpp": {"uniform"},
    "agem": {"uniform", "projects"},
    "gem": {"uniform", "projects"},
    "bic": {"teacher"},
    "icarl": {"stores", "replay", "budget", "herding", "teacher"},
    "gdumb": {"restarts"},
    "cwr": {"restarts", "rests"},
    "freeze": {"rests"},
    "olora": {"grows"},
    "ncm": {"exact"},
    "slda": {"exact"},
    "ridge": {"exact"},
    "fecam": {"exact"},
    "probe": {"exact"},
    "ewc": {"pull", "fisher", "estimated"},
    "si": {"pull", "path"},
    "mas": {"pull", "sensitivity", "estimated"},
    "rwalk": {"pull"},
    "l2": {"pull"},
    "lwf": {"kl"},
}
"""What cannot be read off the fields of a method, or its family."""


_NEEDED = ("task labels", "a transformer", "batch normalisations", "a pretrained head", "exits")
"""What the nets and rows of the checks do not all have."""


def registered() -> dict[str, Entry]:
    """An entry for each method of `METHODS`."""
    return {name: _entry(name, cls) for name, cls in METHODS.items()}


def _entry(name: str, cls: type[Method]) -> Entry:
    card, taken = cls.card, {field.name: field.type for field in fields(cls) if field.init}
    kept: Any = taken.get("memory")
    if kept == Memory | None:  # of use without one, too
        kept = None
    traits = _TRAITS.get(name, set()) | ({"strength"} if name in _STRENGTHS else set())
    if kept is not None:
        traits |= {"stores"} if "restarts" in traits else {"stores", "replay", "budget"}
    if card.family == "distillation":
        traits |= {"teacher"}
    missing = [need for need in _NEEDED if need in card.needs]
    declined = f"{name} needs {missing[0]}" if missing else ""

    def make(setup: Setup) -> Method:
        given: dict[str, Any] = {"count": setup.draw, "seed": setup.seed, "xi": setup.damping}
        given |= {"K": setup.memory, "subsample": max(50, setup.draw), "M": 40, "directions": 20}
        given |= {"inputs": 1 + WIDTH, "hidden": 16, "z": 4}
        if name == "gdumb":
            given["epochs"] = 3
        if setup.strength is not None and name in _STRENGTHS:
            given[_STRENGTHS[name]] = setup.strength
        given = {key: value for key, value in given.items() if key in taken}
        return cls(**given | ({"memory": kept(setup.memory, setup.seed)} if kept is not None else {}))

    return Entry(make, frozenset(traits), frozen=card.family == "frozen features", declined=declined)
