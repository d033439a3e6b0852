"""From what a user typed to the parts of a run: the model, the data, the optimizer, the view."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from everlearn.batch import Rows
from everlearn.data import Concat, Relabelled, Source, Subset, View, load, view
from everlearn.models import Classes, head_of, load_weights, read_classes
from everlearn.models.loading import Report
from everlearn.spec import call, nearest, one_of, parse
from everlearn.streams import Experience
from everlearn.workspace.config import Config

# -- the model ------------------------------------------------------------------------------------------------


def build_model(text: str) -> nn.Module:
    """The module that `FILE.py:NAME(settings)` or `MODULE:NAME(settings)` makes."""
    where, _, what = text.rpartition(":") if "(" not in text else _split_call(text)
    name, settings = _call_of(what)
    if not where or not name:
        raise ValueError(
            f"cannot read --model {text!r}; expected FILE.py:NAME, as in net.py:Net or net.py:Net(outputs=5)"
        )
    module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    if name not in vars(module):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise ValueError(
            f"{where} has no {name!r}{nearest(name, classes)}; its modules are {', '.join(classes) or 'none'}"
        )
    try:
        model = vars(module)[name](**settings)
    except TypeError as error:
        raise ValueError(f"{where}:{name} cannot be made with {settings or 'no settings'}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text!r} is a {type(model).__name__}; expected a torch.nn.Module")  # noqa: TRY004
    return model


def _split_call(text: str) -> tuple[str, str, str]:
    head, bracket, rest = text.partition("(")
    where, colon, name = head.rpartition(":")
    return where, colon, name + bracket + rest


def _call_of(what: str) -> tuple[str, dict[str, Any]]:
    if "(" not in what:
        return what, {}
    try:
        node = ast.parse(what, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            return "", {}
        return node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read {what!r}; settings are keywords with plain values: Net(outputs=5)") from error


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; --model takes FILE.py:NAME")
    name = f"everlearn_model_{path.stem}_{sha256(str(path.absolute()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 (a path that ends in .py has a loader)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"cannot import {name!r} for --model: {error}") from error


def load_model(config: Config) -> tuple[nn.Module, Report]:
    """The model with its weights, and what was loaded; its head has as many outputs as the weights have."""
    model = build_model(config.model)
    report = load_weights(model, config.weights, coverage=config.coverage, head="grow", head_name=config.head or None)
    return model, report


# -- the data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What there is to learn and to be tested on. Experience 0 is the past; the others are the arrivals."""

    past: Experience
    arrivals: tuple[Experience, ...]
    names: tuple[str, ...]
    """Of the experiences."""
    classes: tuple[str, ...]
    """All classes, in the order of the outputs they have or will have."""
    known: int
    """How many of them the model answers for before it learns."""
    held_out: bool
    """Whether tests are rows that were held out, for want of test data."""
    fingerprints: dict[str, str]
    quarantined: tuple[Path, ...]


def load_data(config: Config, outputs: int) -> Data:
    """Loads all data of a run, for a model with `outputs` outputs."""
    sources = {path: _load(config, path) for path in dict.fromkeys((config.old, *config.data, *config.test)) if path}
    regression = config.task == "regression"
    classes = Classes() if regression else Classes(_known_classes(config, sources, outputs))
    known = len(classes)
    for path in config.data:
        classes.add(name for name in sources[path].names if name not in classes)
    for path in config.test:
        if unknown := [name for name in sources[path].names if name not in classes]:
            raise ValueError(
                f"the test data {path} has classes that neither model nor new data knows: {', '.join(unknown[:5])}"
            )
    rows = {
        path: source.rows if regression else Relabelled(source.rows, classes.table(source.names))
        for path, source in sources.items()
    }
    train = [rows[config.old] if config.old else None, *(rows[path] for path in config.data)]
    tests, held_out = _tests(config, rows, train, regression=regression, known=known)
    experiences = []
    for index, (learn, test) in enumerate(zip(train, tests, strict=True)):
        if learn is not None and held_out:
            learn = Subset(learn, _held_out(learn, config.holdout, test=False))  # noqa: PLW2901
        labels = () if regression or learn is None else _labels(learn)
        if index == 0 and not regression:
            labels = tuple(range(known))
        experiences.append(Experience(index, learn if learn is not None else _nothing(train), test, labels))
    quarantined = tuple(path for source in sources.values() for path in source.quarantined)
    return Data(
        experiences[0],
        tuple(experiences[1:]),
        ("old", *(_name(path, place, len(config.data)) for place, path in enumerate(config.data, 1))),
        classes.names,
        known,
        held_out,
        {path: source.fingerprint for path, source in sources.items()},
        quarantined,
    )


def load_questions(config: Config, outputs: int) -> tuple[Rows, tuple[str, ...]]:
    """All rows of `config.data`, to be tested on, and the names of their classes; unknown ones count as wrong."""
    sources = {path: _load(config, path) for path in config.data}
    if config.task == "regression":
        return Concat([source.rows for source in sources.values()]), ()
    classes = Classes(_known_classes(config, sources, outputs))
    rows = []
    for source in sources.values():
        classes.add(name for name in source.names if name not in classes)
        rows.append(Relabelled(source.rows, classes.table(source.names)))
    return Concat(rows), classes.names


def _load(config: Config, path: str) -> Source:
    size = tuple(int(part) for part in config.size.lower().split("x")) if config.size else None
    options: dict[str, Any] = {"task": config.task, "channels": config.channels}
    if size is not None:
        options["size"] = size[0] if len(size) == 1 else size
    return load(path, target=config.target or None, features=config.features or None, **options)


def _known_classes(config: Config, sources: dict[str, Source], outputs: int) -> tuple[str, ...]:
    """The names of the classes that the model answers for."""
    if config.classes:
        if len(config.classes) != outputs:
            raise ValueError(f"--classes names {len(config.classes)} classes, but the model has {outputs} outputs")
        return config.classes
    carried = read_classes(config.weights)
    if carried is not None:
        return carried
    beside = Path(config.weights).with_suffix(".safetensors")
    if beside.is_file() and (carried := read_classes(beside)) is not None and len(carried) == outputs:
        return carried
    old = sources[config.old].names if config.old else ()
    if len(old) == outputs:
        return old
    seen = {name for source in sources.values() for name in source.names}
    if all(name.isdecimal() for name in seen):
        return tuple(map(str, range(outputs)))
    raise ValueError(
        f"the model answers for {outputs} classes, but nothing says which: the weights carry no names, and "
        + (f"--old has {len(old)} classes" if config.old else "there is no --old data")
        + "; name them in the order of the outputs: --classes cat,dog,..."
    )


def _tests(
    config: Config, rows: dict[str, Rows], train: list[Rows | None], *, regression: bool, known: int
) -> tuple[list[Rows], bool]:
    """The test rows of the past and of each arrival, and whether they have to be held out of the training rows."""
    if len(config.test) == len(train):
        return [rows[path] for path in config.test], False
    if len(config.test) > 1:
        raise ValueError(
            f"{len(config.test)} sets of test data were given; expected one, or {len(train)}: one for old data and one "
            f"for each of {len(config.data)} arrivals"
        )
    if config.test and not regression:
        test = rows[config.test[0]]
        labels = torch.as_tensor(test.column("y"))
        first = _first_seen(train, known)
        parts = [
            torch.isin(labels, torch.tensor(sorted(c for c, k in first.items() if k == i))) for i in range(len(train))
        ]
        if all(part.any() for part in parts):
            return [Subset(test, part.nonzero().flatten()) for part in parts], False
        if not parts[0].all():
            empty = [i for i, part in enumerate(parts) if not part.any()]
            raise ValueError(
                f"the test data {config.test[0]} has no rows for "
                f"{'old data' if 0 in empty else f'arrival {empty[0]}'}; "
                f"give one set for old data and one for each arrival, or leave --test out to hold rows out"
            )
        # The arrivals bring no new classes: what is tested on the past is tested on them, too.
        return [test for _ in train], False
    if config.test:
        return [rows[config.test[0]] for _ in train], False
    nothing = _nothing(train)
    return [nothing if r is None else Subset(r, _held_out(r, config.holdout, test=True)) for r in train], True


def _first_seen(train: list[Rows | None], known: int) -> dict[int, int]:
    """The experience in which each class came first."""
    first = dict.fromkeys(range(known), 0)
    for index, rows in enumerate(train):
        if rows is not None:
            for label in _labels(rows):
                first.setdefault(label, index)
    return first


def _held_out(rows: Rows, share: float, *, test: bool) -> torch.Tensor:
    """Positions held out for testing, or those that are not: by the hash in the row's id, so they stay the same."""
    ids = torch.as_tensor(rows.column("id"))
    out = (ids % 1_000_003) < share * 1_000_003
    return (out if test else ~out).nonzero().flatten()


def _labels(rows: Rows) -> tuple[int, ...]:
    return tuple(torch.as_tensor(rows.column("y")).unique().tolist())


def _nothing(train: list[Rows | None]) -> Rows:
    """No rows, of the kind that there would be."""
    some = next(rows for rows in train if rows is not None)
    return Subset(some, torch.zeros(0, dtype=torch.int64))


def _name(path: str, place: int, arrivals: int) -> str:
    return "new" if arrivals == 1 else f"{place}: {Path(path).stem}"


def everything(data: Data) -> Rows:
    """All test rows."""
    return Concat([data.past.test, *(each.test for each in data.arrivals)])


# -- the rest -------------------------------------------------------------------------------------------------

_TAKES = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer and cls is not torch.optim.LBFGS
}


def make_optimizer(text: str) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The factory that `sgd:lr=0.001,momentum=0.9` describes; its settings are tried at once."""
    spec = parse(text)
    cls = _TAKES[one_of("optimizer", spec.name, _TAKES)]
    probe = cls([nn.Parameter(torch.zeros(1))], lr=spec.settings.get("lr", 0.1))
    known = [name for name in probe.defaults if name != "params"]
    call(spec.name, partial(cls, [nn.Parameter(torch.zeros(1))]), spec.settings, known)
    return partial(cls, **spec.settings)


def make_scheduler(text: str) -> Callable[[Optimizer, int], LRScheduler] | None:
    """The factory that `cosine` or `step:step_size=100,gamma=0.5` describes, over the steps of an experience."""
    if not text:
        return None
    spec = parse(text)
    one_of("schedule", spec.name, _SCHEDULES)
    cls, known, over = _SCHEDULES[spec.name]
    call(spec.name, dict, spec.settings, known)
    return lambda optimizer, steps: cls(optimizer, **({over: max(1, steps)} if over else {}) | dict(spec.settings))


_lr = torch.optim.lr_scheduler
_SCHEDULES: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...], str]] = {
    "cosine": (_lr.CosineAnnealingLR, ("eta_min",), "T_max"),
    "linear": (_lr.LinearLR, ("start_factor", "end_factor"), "total_iters"),
    "step": (_lr.StepLR, ("step_size", "gamma"), ""),
    "onecycle": (_lr.OneCycleLR, ("max_lr", "pct_start"), "total_steps"),
}


def make_view(config: Config, rows: Rows) -> View | None:
    """The view that the config asks for, if the rows are images; None for vectors."""
    x = rows.take(torch.arange(min(1, len(rows))))["x"]
    image = isinstance(x, torch.Tensor) and x.ndim == 4
    if not image and config.augment:
        raise ValueError(f"--augment is for images, but the rows of {config.data[0]} are none")
    if not image and config.normalize == "unit" and isinstance(x, torch.Tensor) and x.dtype != torch.uint8:
        return None
    return view(normalize=_normalization(config.normalize), augment=list(config.augment))


def _normalization(text: str) -> Any:
    mean, colon, std = text.partition(":")
    if not colon:
        return text
    try:
        return tuple(map(float, mean.split(","))), tuple(map(float, std.split(",")))
    except ValueError as error:
        raise ValueError(f"cannot read --normalize {text!r}; expected a name, or mean,...:std,...") from error


def outputs_of(model: nn.Module, config: Config) -> int:
    """How many outputs the head has."""
    return head_of(model, config.head or None)[1].out_features
