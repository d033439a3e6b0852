"""A run: a trained model, new data, a model that knows both; in one folder, interruptible at any instant.

RUN/config.json        what was asked, and fingerprints of what it was asked of
RUN/checkpoints/NAME/  the last checkpoints of each contender
RUN/model.pth, model.safetensors, memory.checkpoint, report.html, report.json    when it is done
"""

import fcntl
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import everlearn
from everlearn import border, checkpoint
from everlearn.data import Columns, Concat
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods.composition import build
from everlearn.metrics import Report, Scores
from everlearn.models import save_weights
from everlearn.models.loading import Report as LoadReport
from everlearn.objective import classify, regress
from everlearn.randomness import mix, seed_globals
from everlearn.spec import parse_chain
from everlearn.streams import Experience
from everlearn.workspace.config import Config, make, settled
from everlearn.workspace.parts import (
    Data,
    load_data,
    load_model,
    make_optimizer,
    make_scheduler,
    make_view,
    outputs_of,
)

WEIGHTS = (".pth", ".pt", ".safetensors")
"""The suffixes of files of weights."""

PLAIN = "fine-tuning"
"""What plain fine-tuning is called in tables."""


@dataclass(frozen=True)
class Moment:
    """Where a run is, between two steps."""

    contender: str
    experience: str
    place: int
    of: int
    rows: int
    """Learned in this step."""


class Run:
    """A run in its folder. Made by `begin` or `resume`; `steps` does the work, `report` tells what came out."""

    def __init__(self, config: Config, data: Data, loaded: LoadReport) -> None:
        self.config, self.data, self.loaded = config, data, loaded
        self.folder = folder_of(config.out)
        self.scores: dict[str, Scores] = {}
        self._learner: Learner | None = None
        self._save: Callable[[], object] = lambda: None

    @property
    def contenders(self) -> dict[str, str]:
        """The methods that are trained, by the names they have in tables; the last one is the one that is kept."""
        plain = {PLAIN: "naive"} if self.config.compare and self.config.method != "naive" else {}
        return plain | {"+".join(spec.name for spec in parse_chain(self.config.method)): self.config.method}

    @property
    def stem(self) -> str:
        """What the files of weights are called."""
        return Path(self.config.out).stem if self.writes_weights else "model"

    @property
    def writes_weights(self) -> bool:
        """Whether `--out` names a file of weights, beside the run's folder."""
        return Path(self.config.out).suffix in WEIGHTS

    @property
    def done(self) -> bool:
        """Whether all is learned and written."""
        return (self.folder / "report.json").is_file()

    def steps(self) -> Iterator[Moment]:
        """Goes on from the last checkpoint to the end; each yield is a moment at which `save` may be called."""
        with _locked(self.folder):
            for name, method in self.contenders.items():
                yield from self._contend(name, method)
            self._finish()

    def save(self) -> None:
        """Takes a checkpoint now."""
        self._save()

    def report(self) -> Report:
        """What came out, as far as it is known."""
        return Report(f"everlearn: {Path(self.config.out).stem}", self.scores, self._facts())

    # -- inside -----------------------------------------------------------------------------------------------

    def _contend(self, name: str, method: str) -> Iterator[Moment]:
        """One method learns all arrivals."""
        config = self.config
        learner, scores = self._new(method), Scores(kind=self._kind, names=self.data.names)
        self._learner, self.scores[name] = learner, scores
        keeper = checkpoint.Checkpoints(
            self.folder / "checkpoints" / _file_name(name),
            every_steps=config.checkpoint_steps or None,
            every_seconds=config.checkpoint_seconds or None,
        )
        spent, since = 0.0, time.monotonic()

        def save() -> None:
            seconds = spent + time.monotonic() - since
            state = {"learner": learner.state_dict(), "scores": scores.state_dict(), "seconds": seconds}
            keeper.save(state, learner.number * 1000 + learner.experience)

        self._save = save
        saved = keeper.load()
        if saved is not None:
            learner.load_state_dict(saved["learner"])
            scores.load_state_dict(saved["scores"])
            spent = saved["seconds"]
        else:
            seed_globals(mix(config.seed))
            if torch.device(config.device).type == "cuda":
                torch.cuda.manual_seed_all(mix(config.seed))
            self._inherit(learner, method)
            self._measure(learner, scores, after=0, final=True)
            save()
        every = max(1, config.epochs // 5)
        for experience in self.data.arrivals[learner.experience - 1 :]:
            for step in learner.steps(experience):
                rows = min(config.batch_size, len(experience.train))
                yield Moment(name, self.data.names[experience.index], step.place, step.of, rows)
                at_end = step.place % (step.of // config.epochs) == 0
                if at_end and step.place < step.of and (step.epoch + 1) % every == 0:
                    self._measure(learner, scores, after=experience.index, final=False)
                if keeper.due():
                    save()
            self._measure(learner, scores, after=experience.index, final=True)
            memory = [each for each in memories(learner.method) if len(each)]
            scores.note(
                experience.index,
                seconds=spent + time.monotonic() - since,
                memory_bytes=sum(_size(each.state_dict()) for each in memory),
                memory_rows=sum(map(len, memory)),
            )
            spent, since = 0.0, time.monotonic()
            save()

    def _new(self, method: str) -> Learner:
        config = self.config
        model, _ = load_model(config)
        grow = config.task == "classification" and len(self.data.classes) > self.data.known
        folder = str(self.folder / "memory" / _file_name(method)) if config.memory_on_disk else None
        return Learner(
            model,
            self._method(method, grow=grow, folder=folder),
            classify if config.task == "classification" else regress,
            optimizer=make_optimizer(config.optimizer),
            scheduler=make_scheduler(config.scheduler),
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            view=make_view(config, self.data.arrivals[0].train),
            device=config.device,
            precision=config.precision,  # type: ignore[arg-type]  # checked by the learner
            accumulate=config.accumulate,
            clip=config.clip or None,
            compile=config.compile,
            drop_last=config.drop_last,
            workers=config.workers,
        )

    def _method(self, method: str, *, grow: bool, folder: str | None) -> Method:
        kind = "balanced" if self.config.task == "classification" else "reservoir"
        return build(
            method,
            seed=self.config.seed,
            grow=grow,
            memory=kind,
            folder=folder,
            head=self.config.head or None,
        )

    def _inherit(self, learner: Learner, method: str) -> None:
        """Gives the method what is left of the past: an earlier run's memory, old data, the model as it is."""
        past = self.data.past
        if method == "naive":
            learner.experience = 1
            return
        parts = [past.train] if len(past.train) else []
        if self.config.memory:
            kept = checkpoint.load(self.config.memory)
            known = self.data.classes[: self.data.known]
            if tuple(kept["classes"]) != known and self.config.task == "classification":
                raise ValueError(
                    f"the memory {self.config.memory} is of a model for {', '.join(kept['classes'])}, but this "
                    f"one answers for {', '.join(known)}"
                )
            if kept["method"] == method and not kept["folder"] and not self.config.memory_on_disk:
                _inner(learner.method).load_state_dict(kept["state"])
                learner.experience = 1
                return
            before = self._method(kept["method"], grow=False, folder=kept["folder"] or None)
            before.load_state_dict(kept["state"])
            parts += [Columns(_plain(each.rows())) for each in memories(before) if len(each)]
        train = parts[0] if len(parts) == 1 else Concat(parts) if parts else past.train
        learner.remember(Experience(0, train, past.test, past.classes))

    def _measure(self, learner: Learner, scores: Scores, *, after: int, final: bool) -> None:
        for on, experience in enumerate((self.data.past, *self.data.arrivals)):
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
        save_weights(learner.model, self.folder / f"{self.stem}.safetensors", classes=classes)
        save_weights(learner.model, self.folder / f"{self.stem}.pth")
        folder = self.folder / "memory" / _file_name(self.config.method) if self.config.memory_on_disk else ""
        checkpoint.save(
            {
                "method": self.config.method,
                "state": _inner(learner.method).state_dict(),
                "classes": list(self.data.classes),
                "folder": str(folder),
            },
            self.folder / "memory.checkpoint",
        )
        if self.writes_weights:
            named = classes if Path(self.config.out).suffix == ".safetensors" else None
            save_weights(learner.model, self.config.out, classes=named)
        self.report().write(self.folder)

    def _facts(self) -> dict[str, object]:
        return {
            "settings": self.config.to_json(),
            "classes": list(self.data.classes),
            "tests": "rows held out of the data" if self.data.held_out else "test data",
            "quarantined files": [str(path) for path in self.data.quarantined],
            "weights": str(self.loaded),
            **environment(),
        }


# -- beginning and resuming -----------------------------------------------------------------------------------


def begin(config: Config) -> Run:
    """A new run, once everything it needs is known to fit. Nothing is written before that."""
    config = settled(config)
    folder = folder_of(config.out)
    if (folder / "config.json").exists():
        raise ValueError(
            f"there is a run in {folder} already; go on with it (everlearn resume {folder}), or choose another --out"
        )
    run = _prepare(config)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"config": config.to_json(), "inputs": _inputs(run), "environment": environment()}
    checkpoint.write(folder / "config.json", json.dumps(record, indent=2).encode())
    return run


def resume(out: str | Path, say: Callable[[str], None]) -> Run:
    """The run in a folder, if it is asked of the same model, settings and data as before."""
    folder = folder_of(out)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"there is no run in {folder}; expected the folder that everlearn learn --out made")
    record = json.loads(path.read_text(encoding="utf-8"))
    config = make(record["config"], str(path))
    if folder_of(config.out).resolve() != folder.resolve():
        raise ValueError(f"the run in {folder} was made in {folder_of(config.out)}; move it back, or begin a new one")
    run = _prepare(config)
    now = _inputs(run)
    changed = [name for name, value in record["inputs"].items() if now.get(name) != value]
    if changed:
        raise ValueError(
            f"these are not what they were when the run began: {', '.join(changed)}. Going on would mix two runs; "
            "bring them back, or begin a new run"
        )
    for name, value in environment().items():
        if record["environment"].get(name) != value:
            say(f"{name} was {record['environment'].get(name)} and is {value}: the result may differ in its last bits")
    return run


def _prepare(config: Config) -> Run:
    """Loads model and data and tries everything that can be tried without learning."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.task not in ("classification", "regression"):
        raise ValueError(f"task must be classification or regression, but is {config.task!r}")
    model, loaded = load_model(config)
    data = load_data(config, outputs_of(model, config))
    run = Run(config, data, loaded)
    needs_rows = any(spec.name == "ewc" for spec in parse_chain(config.method))
    if needs_rows and not config.old and not config.memory:
        raise ValueError(
            "ewc measures on past data what the model depends on; give it: --old (or --memory of an earlier run)"
        )
    for method in run.contenders.values():
        learner = run._new(method)  # noqa: SLF001 (its own module)
        for experience in data.arrivals:
            border.trainable_batches(
                learner.model,
                len(experience.train),
                config.batch_size,
                config.accumulate,
                drop_last=config.drop_last,
            )
        border.fits(learner.model, data.arrivals[0].train, learner._seen(None), learner.device, labels=False)  # noqa: SLF001
    return run


def _inputs(run: Run) -> dict[str, str]:
    """Hashes of what the result depends on."""
    config = run.config
    files = {
        "weights": config.weights,
        "memory": config.memory,
        "model": config.model.partition(".py:")[0] + ".py",
    }
    hashes = {
        f"{name} {path}": sha256(Path(path).read_bytes()).hexdigest()[:16]
        for name, path in files.items()
        if path and Path(path).is_file()
    }
    return hashes | {f"data {path}": value for path, value in run.data.fingerprints.items()}


def environment() -> dict[str, str]:
    """What the last bits of a result depend on, besides its settings."""
    return {
        "everlearn": everlearn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
    }


def folder_of(out: str | Path) -> Path:
    """The folder of a run: `--out` itself, or without its suffix if it names a file of weights."""
    path = Path(out)
    return path.with_suffix("") if path.suffix in WEIGHTS else path


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+-=." else "_" for c in name)


def memories(method: Method) -> list[Memory]:
    """All memories of a method or chain."""
    if isinstance(method, Chain):
        return [memory for each in method.methods for memory in memories(each)]
    return [value for value in vars(method).values() if isinstance(value, Memory)]


def _inner(method: Method) -> Method:
    """The method without the growing head that the run put in front of it."""
    from everlearn.methods import GrowHead  # noqa: PLC0415

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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time works in a run."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process works on the run in {folder}; wait for it, or stop it") from error
        yield
