"""A run: a trained model, new data, a model that knows both; in one folder, interruptible at any instant.

RUN/config.json        what was asked, and fingerprints of what it was asked of
RUN/checkpoints/NAME/  the last checkpoints of each contender
RUN/model.pth, model.safetensors, memory.checkpoint, report.html, report.json    when it is done
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from everlearn import border, checkpoint
from everlearn.batch import Rows
from everlearn.data import Columns, Concat
from everlearn.environment import environment
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods import METHODS, GrowHead
from everlearn.methods.composition import build
from everlearn.metrics import Report, Scores
from everlearn.models import save_weights
from everlearn.models.report import Report as LoadReport
from everlearn.randomness import mix, seed_globals
from everlearn.spec import parse_chain
from everlearn.streams import Experience
from everlearn.transfer.statistics import recompute_statistics
from everlearn.workspace.arrivals import Data
from everlearn.workspace.config import Config
from everlearn.workspace.folder import done, file_name, folder_of, weights_of
from everlearn.workspace.model import check_answers, few, load_model
from everlearn.workspace.strategies import recipe_of
from everlearn.workspace.training import make_optimizer, make_scheduler, make_view
from everlearn.workspace.transferring import first_of

PLAIN = "fine-tuning"
"""What plain fine-tuning is called in tables."""

CONTROL = "control"
"""What it is called where rows without labels are adapted to: the same labelled rows, and nothing is adapted."""


@dataclass(frozen=True)
class Moment:
    """Where a run is, between two steps."""

    contender: str
    experience: str
    place: int
    of: int
    """Steps in all; 0 where that is not known."""
    rows: int
    """Learned in this step."""


class Run:
    """A run in its folder. Made by `opening`; `steps` does the work, `report` tells what came out."""

    def __init__(
        self, config: Config, data: Data, loaded: LoadReport | None, kept: dict[str, Any] | None = None
    ) -> None:
        self.config, self.data, self.loaded, self.kept = config, data, loaded, kept
        self.folder = folder_of(config.out)
        self.strategy, self.reason = config.strategy, ""
        """How a base is tuned, and why, if nobody asked for it."""
        self.frozen = ""
        """What of the model does not learn, in words."""
        self.scores: dict[str, Scores] = {}
        self._learner: Learner | None = None
        self._base: Any = None
        self._save: Callable[[], object] = lambda: None

    @property
    def contenders(self) -> dict[str, str]:
        """The methods that are trained, by the names they have in tables; the last one is the one that is kept."""
        method = self.config.method
        name = "+".join(spec.name for spec in parse_chain(method))
        if self.strategy:
            parts = [spec.name for spec in parse_chain(self.strategy)]
            own = [spec.name for spec in parse_chain(recipe_of(self.strategy).method)]
            name = "+".join([part for part in name.split("+") if part not in (*own, "naive")] + parts)
        plain = CONTROL if self.config.unlabelled else PLAIN
        return ({plain: "naive"} if self.config.compare and method != "naive" else {}) | {name: method}

    @property
    def past(self) -> int:
        """How many experiences come before the arrivals: one, or none where a base is tuned."""
        return 0 if self.config.strategy else 1

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of weights that it makes; the first is the one that was asked for."""
        return weights_of(self.config.out)

    @property
    def done(self) -> bool:
        """Whether all is learned and written."""
        return done(self.folder)

    def steps(self, say: Callable[[str], None] = print) -> Iterator[Moment]:
        """Goes on from the last checkpoint to the end; each yield is a moment at which `save` may be called.

        `say` is told of checkpoints that are damaged.
        """
        with checkpoint.locked(self.folder):
            for name, method in self.contenders.items():
                yield from self._contend(name, method, say)
            self._finish()

    def save(self) -> None:
        """Takes a checkpoint now."""
        self._save()

    def report(self) -> Report:
        """What came out, as far as it is known."""
        return Report(f"everlearn: {Path(self.config.out).stem}", self.scores, self._facts())

    # -- inside -----------------------------------------------------------------------------------------------

    def _contend(self, name: str, method: str, say: Callable[[str], None]) -> Iterator[Moment]:
        """One method learns all arrivals."""
        config = self.config
        learner, scores = self._new(method), Scores(kind=self._kind, names=self.data.names[1 - self.past :])
        self._learner, self.scores[name] = learner, scores
        keeper = checkpoint.Checkpoints(
            self.folder / "checkpoints" / file_name(name),
            every_steps=config.checkpoint_steps or None,
            every_seconds=config.checkpoint_seconds or None,
        )
        spent, since = 0.0, time.monotonic()

        def save() -> None:
            seconds = spent + time.monotonic() - since
            state = {"learner": learner.state_dict(), "scores": scores.state_dict(), "seconds": seconds}
            keeper.save(state, learner.number * 1000 + learner.experience)

        self._save = lambda: None  # until there is something to go on from
        saved = keeper.load(say)
        if saved is not None:
            learner.load_state_dict(saved["learner"])
            scores.load_state_dict(saved["scores"])
            spent = saved["seconds"]
        else:
            seed_globals(mix(config.seed))
            if torch.device(config.device).type == "cuda":
                torch.cuda.manual_seed_all(mix(config.seed))
            yield Moment(name, "past data", 0, 0, 0)
            self._inherit(learner, method)
            self._measure(learner, scores, after=self.past - 1, final=True)
            save()
        self._save = save
        every = max(1, config.epochs // 5)
        for experience in self.data.arrivals[learner.experience - 1 :]:
            after = experience.index - 1 + self.past
            for step in learner.steps(experience):
                at_end = step.place % (step.of // config.epochs) == 0
                if at_end and step.place < step.of and (step.epoch + 1) % every == 0:
                    self._measure(learner, scores, after=after, final=False)
                rows = min(config.batch_size, len(experience.train))
                yield Moment(name, self.data.names[experience.index], step.place, step.of, rows)
                if keeper.due():
                    save()
            self._renew(learner, experience.train)
            self._measure(learner, scores, after=after, final=True)
            scores.note(after, seconds=spent + time.monotonic() - since)
            memory = memories(learner.method)
            if memory or self.past:
                kept = sum(_size(each.state_dict()) for each in memory if len(each))
                scores.note(after, memory_bytes=kept, memory_rows=sum(map(len, memory)))
            spent, since = 0.0, time.monotonic()
            save()

    def _renew(self, learner: Learner, rows: Rows) -> None:
        """Computes the statistics of batch normalisation in frozen parts anew, if that is what was asked for."""
        if self.config.freeze and self.config.norm == "recompute":
            recompute_statistics(learner.model, rows, learner._seen(None))  # noqa: SLF001 (as it sees rows)

    def _new(self, method: str, *, folder: Path | None = None, compile: bool | None = None) -> Learner:  # noqa: A002
        config = self.config
        loaded = load_model(config, self.data.classes)
        self._base = loaded.base
        new = config.task == "classification" and len(self.data.classes) > self.data.known
        grow = new and not config.strategy  # a base that is tuned has the head that it needs
        place = str((folder or self.folder) / "memory" / file_name(method)) if config.memory_on_disk else None
        return Learner(
            loaded.model,
            self._method(method, grow=grow, folder=place),
            loaded.objective(config.task),
            optimizer=make_optimizer(config.optimizer, loaded.model, config.head),
            scheduler=make_scheduler(config.scheduler),
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            view=make_view(config, self.data.arrivals[0].train, loaded),
            device=config.device,
            precision=config.precision,  # type: ignore[arg-type]  # checked by the learner
            accumulate=config.accumulate,
            clip=config.clip or None,
            compile=config.compile if compile is None else compile,
            drop_last=config.drop_last,
            workers=config.workers,
        )

    def _method(self, method: str, *, grow: bool, folder: str | None, seed: int | None = None) -> Method:
        for spec in parse_chain(method):
            cls = METHODS.get(spec.name, Method)  # a name that is not there is refused below
            if "task labels" in cls.card.needs:
                raise ValueError(
                    f"{spec.name} needs task labels, which the rows of a run do not have; use it in Python"
                )
            if cls.predict is not Method.predict:
                raise ValueError(
                    f"{spec.name} answers by what it keeps, and not by the weights of the model, which are what a run "
                    "leaves; use it in Python, where learner.predict answers"
                )
        return build(
            method,
            seed=self.config.seed if seed is None else seed,
            grow=grow,
            regression=self.config.task == "regression",
            folder=folder,
            head=self.config.head or None,
        )

    def _inherit(self, learner: Learner, method: str) -> None:
        """Gives the method what is left of the past: an earlier run's memory, old data, the model as it is."""
        if method == "naive" or self.config.strategy:  # what is transferred to has no past
            learner.experience = 1
            return
        kept, on_disk = self.kept, self.config.memory_on_disk
        if kept and (kept["method"], kept["seed"]) == (method, self.config.seed) and not (kept["folder"] or on_disk):
            _inner(learner.method).load_state_dict(kept["state"])
            learner.experience = 1
            return
        learner.remember(replace(self.data.past, train=self._remembered()))

    def _remembered(self) -> Rows:
        """The rows of the past that there are: those that an earlier run kept, and old data."""
        past = self.data.past
        parts = [past.train] if len(past.train) else []
        if self.kept:
            folder = self.kept["folder"] or None
            before = self._method(self.kept["method"], grow=False, folder=folder, seed=self.kept["seed"])
            before.load_state_dict(self.kept["state"])
            parts += [Columns(_plain(each.rows())) for each in memories(before) if len(each)]
        return Concat(parts) if parts else past.train

    def rehearse(self, method: str, folder: Path) -> None:
        """Tries with two rows of each set, and with files in `folder`, all that can be tried without learning.

        Raises a ValueError for whatever does not fit.
        """
        config, data = self.config, self.data
        learner = self._new(method, folder=folder, compile=False)
        if not any(weight.requires_grad for weight in learner.model.parameters()):
            raise ValueError(
                f"all weights of {config.model or config.base} are frozen (requires_grad is False), so it cannot learn"
            )
        for experience in (data.past, *data.arrivals):
            for rows in (experience.train, experience.test):
                if len(rows):
                    check_answers(config, learner, rows)
                    learner.evaluate(few(rows), kind=self._kind)
        for experience in data.arrivals:
            sizes = (len(experience.train), config.batch_size, config.accumulate)
            beside = 0 if experience.reference is None else min(config.batch_size, len(experience.reference))
            asked = None if learner.method.own_steps else learner.model
            border.trainable_batches(asked, *sizes, drop_last=config.drop_last, beside=beside)
        if not config.strategy:
            self._rehearse_past(learner, method)
        learner.batch_size, learner.accumulate = min(2, config.batch_size), 1
        for experience in self._samples():
            learner.drop_last = len(experience.train) > 1  # a class of one row makes them odd
            for _ in learner.steps(experience):
                learner.stop()
        self._renew(learner, few(data.arrivals[0].train))

    def _rehearse_past(self, learner: Learner, method: str) -> None:
        if len(remembered := self._remembered()):
            learner.remember(replace(self.data.past, train=few(remembered)))
        elif measuring := [spec.name for spec in parse_chain(method) if METHODS[spec.name].card.measures]:
            raise ValueError(
                f"{measuring[0]} measures on past data what the model depends on, and there is none; give --old, or "
                "the --memory of an earlier run that kept rows"
            )

    def _samples(self) -> Iterator[Experience]:
        """Some rows of the first arrival, and of the first that stands beside a reference."""
        alone = [each for each in self.data.arrivals if each.reference is None]
        beside = [each for each in self.data.arrivals if each.reference is not None]
        for each in (*alone[:1], *beside[:1]):
            labelled = self.config.strategy and each.reference is None and self.config.task == "classification"
            train = first_of(each.train, 2) if labelled else few(each.train)
            yield replace(each, train=train, reference=each.reference and few(each.reference))

    def _measure(self, learner: Learner, scores: Scores, *, after: int, final: bool) -> None:
        for on, experience in enumerate((self.data.past, *self.data.arrivals)[1 - self.past :]):
            if len(experience.test):
                options = {"names": self.data.classes} if self._kind == "accuracy" else {"kind": "error"}
                result = learner.evaluate(experience.test, **options)
                scores.add(result, after=after, on=on, step=learner.number, final=final)

    @property
    def _kind(self) -> Any:
        return "accuracy" if self.config.task == "classification" else "error"

    def _finish(self) -> None:
        """Writes what the run leaves; the report last, because it says that all is there."""
        learner = self._learner
        assert learner is not None  # noqa: S101 (there is always a contender)
        classes = self.data.classes if self._kind == "accuracy" else None
        for path in self.weights:
            if self._base is not None and path.suffix == ".safetensors":
                self._base.classes = classes
                self._base.save(path)
            else:
                save_weights(learner.model, path, classes=classes if path.suffix == ".safetensors" else None)
        folder = self.folder / "memory" / file_name(self.config.method) if self.config.memory_on_disk else ""
        checkpoint.save(
            {
                "method": self.config.method,
                "seed": self.config.seed,
                "task": self.config.task,
                "state": _inner(learner.method).state_dict(),
                "classes": list(self.data.classes),
                "folder": str(folder),
            },
            self.folder / "memory.checkpoint",
        )
        self.report().write(self.folder)

    def _facts(self) -> dict[str, object]:
        strategy = {"strategy": self.strategy + (f": {self.reason}" if self.reason else "")} if self.strategy else {}
        return {
            **strategy,
            "settings": self.config.to_json(),
            "classes": list(self.data.classes),
            "tests": "rows held out of the data" if self.data.held_out else "test data",
            "quarantined files": [str(path) for path in self.data.quarantined],
            "weights": str(self.loaded),
            **environment(),
        }


def memories(method: Method) -> list[Memory]:
    """All memories of a method or chain."""
    if isinstance(method, Chain):
        return [memory for each in method.methods for memory in memories(each)]
    return [value for value in vars(method).values() if isinstance(value, Memory)]


def _inner(method: Method) -> Method:
    """The method without the growing head that the run put in front of it."""
    if isinstance(method, Chain) and isinstance(method.methods[0], GrowHead):
        rest = method.methods[1:]
        return rest[0] if len(rest) == 1 else Chain(*rest)
    return method


def _plain(rows: dict[str, Any]) -> dict[str, Any]:
    """Remembered rows as rows of data: without what a method noted about them."""
    return {name: column for name, column in rows.items() if name in ("x", "y", "id", "task", "domain")}


def _size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return 0
