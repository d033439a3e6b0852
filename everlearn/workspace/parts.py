"""From what a user typed to the parts of a run: the model, the data, the optimizer, the view."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import everlearn
from everlearn import border
from everlearn.batch import Batch, Column, Rows, tensor
from everlearn.data import Concat, Relabelled, Source, Subset, View, load, view
from everlearn.data.hashing import name_id, row_ids
from everlearn.data.rows import Around
from everlearn.learner import Learner
from everlearn.models import Classes, head_of, load_weights, read_classes
from everlearn.models.loading import Report
from everlearn.randomness import mix, seeded
from everlearn.spec import call, nearest, one_of, parse
from everlearn.streams import Experience
from everlearn.workspace.config import Config

# -- the model ------------------------------------------------------------------------------------------------


def build_model(text: str) -> nn.Module:
    """The module that `FILE.py:NAME(settings)` or `MODULE:NAME(settings)` makes."""
    where, name, settings = _parsed(text)
    module = _import(where)
    if name not in vars(module):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise ValueError(
            f"{where} has no {name!r}{nearest(name, classes)}; its modules are {', '.join(classes) or 'none'}"
        )
    with _foreign(f"{where}:{name} cannot be made with {settings or 'no settings'}"):
        model = vars(module)[name](**settings)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text!r} is a {type(model).__name__}; expected a torch.nn.Module")  # noqa: TRY004
    return model


def _parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Where the model stands, its name, and its settings."""
    head, bracket, rest = text.partition("(")
    where, _, name = head.rpartition(":")
    name, settings = _call_of(name + bracket + rest)
    if not where or not name:
        raise ValueError(
            f"cannot read --model {text!r}; expected FILE.py:NAME, as in net.py:Net or net.py:Net(outputs=5)"
        )
    return where, name, settings


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


def _import(where: str) -> Any:
    """The module in a file or of a name; what lies beside the file, or in the working folder, can be imported too."""
    if not where.endswith(".py"):
        _findable(Path.cwd())
        with _foreign(f"cannot import {where!r} for --model"):
            return importlib.import_module(where)
    path = Path(where).absolute()
    if not path.is_file():
        raise ValueError(f"there is no file {where}; --model takes FILE.py:NAME")
    _findable(path.parent)
    name = f"everlearn_model_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 (a path that ends in .py has a loader)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _foreign(f"cannot import {where} for --model"):
        spec.loader.exec_module(module)
    return module


def _findable(folder: Path) -> None:
    """Lets modules in the folder be imported: last, so that they stand before nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def _foreign(failed: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around the user's own code: whatever it raises becomes a ValueError that says what `failed`, and where.

    Errors that are clear already pass through: `but`.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        # Our own frames, torch's and the interpreter's say nothing to the user; a syntax error names its place itself.
        others = (*(str(Path(file).parent) for file in (everlearn.__file__, torch.__file__, importlib.__file__)), "<")
        frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
        known = frames and not isinstance(error, SyntaxError)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if known else ""
        raise ValueError(f"{failed}: {type(error).__name__}: {error}{place}") from error


def model_file(text: str) -> Path | None:
    """The file that `build_model` takes the model from, if it is one."""
    where, _, _ = _parsed(text)
    if where.endswith(".py"):
        return Path(where)
    _findable(Path.cwd())
    with _foreign(f"cannot import {where!r} for --model"):
        spec = importlib.util.find_spec(where)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def load_model(config: Config) -> tuple[nn.Module, Report]:
    """The model with its weights, and what was loaded; its head has as many outputs as the weights have."""
    with seeded(mix(config.seed)):  # what the weights leave out is the same for each contender
        model = build_model(config.model)
    report = load_weights(model, config.weights, coverage=config.coverage, head="grow", head_name=config.head or None)
    return model, report


def few(rows: Rows) -> Rows:
    """The first two rows: enough to try a model on."""
    return Subset(rows, torch.arange(min(2, len(rows))))


def check_answers(config: Config, learner: Learner, rows: Rows) -> None:
    """Raises a ValueError unless the model takes such rows, and answers as its task asks it to."""
    with _foreign(f"{config.model} cannot answer", but=(ValueError,)):
        border.fits(learner.model, rows, learner._seen(None), learner.device, labels=False)  # noqa: SLF001 (as it sees rows)
        logits: Any = learner.predict(rows.take(torch.arange(min(2, len(rows)))))
    if not isinstance(logits, torch.Tensor):
        raise ValueError(  # noqa: TRY004 (what is wrong is the model)
            f"{config.model} answers with a {type(logits).__name__}; expected one tensor, with a row for each row"
        )
    outputs = outputs_of(learner.model, config)
    if config.task == "classification" and logits.shape[1:] != (outputs,):
        name, _ = head_of(learner.model, config.head or None)
        raise ValueError(
            f"{config.model} answers with shape {tuple(logits.shape[1:])} for a row, but its head {name!r} has "
            f"{outputs} outputs; expected a logit for each output. If another layer is the head, name it: --head"
        )


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
    quarantined: tuple[Path, ...]


def load_sources(config: Config) -> dict[str, Source]:
    """All data of a run, by path."""
    return {path: _load(config, path) for path in dict.fromkeys((config.old, *config.data, *config.test)) if path}


def arrange(config: Config, sources: dict[str, Source], outputs: int) -> Data:
    """The experiences that the data make for a model with `outputs` outputs."""
    _alike(sources)
    regression = config.task == "regression"
    classes = Classes() if regression else Classes(_known_classes(config, sources, outputs))
    known = len(classes)
    if config.old and not regression:
        _none_unknown(f"the old data {config.old}", sources[config.old].names, classes, "new classes come with --data")
    for path in config.data:
        classes.add(name for name in sources[path].names if name not in classes)
    for path in config.test if not regression else ():
        _none_unknown(f"the test data {path}", sources[path].names, classes, "leave their rows out")
    rows = {
        path: source.rows if regression else Relabelled(source.rows, classes.table(source.names))
        for path, source in sources.items()
    }
    train = [rows[config.old] if config.old else None, *(rows[path] for path in config.data)]
    tests, held_out = _tests(config, rows, train, regression=regression, known=known)
    experiences = []
    for index, (path, learn, test) in enumerate(zip((config.old, *config.data), train, tests, strict=True)):
        labels = () if regression or learn is None else _labels(learn)
        if index == 0 and not regression:
            labels = tuple(range(known))
        if learn is None:
            experiences.append(Experience(index, _nothing(train), test, labels))
            continue
        kept = Subset(learn, _held_out(learn, config.holdout, test=False)) if held_out else learn
        experiences.append(Experience(index, _distinct(Path(path), kept, sources[path]), test, labels))
    quarantined = tuple(path for source in sources.values() for path in source.quarantined)
    return Data(
        experiences[0],
        tuple(experiences[1:]),
        ("old", *(_name(path, place, len(config.data)) for place, path in enumerate(config.data, 1))),
        classes.names,
        known,
        held_out,
        quarantined,
    )


def load_questions(config: Config, outputs: int) -> tuple[Rows, tuple[str, ...], int]:
    """All rows of `config.data`, the names of their classes, and how many of these the model knows.

    The others count as wrong answers. Old data, where there is some, is read for the names of its classes only.
    """
    sources = {path: _load(config, path) for path in dict.fromkeys((config.old, *config.data)) if path}
    _alike(sources)
    if config.task == "regression":
        return Concat([sources[path].rows for path in config.data]), (), 0
    classes = Classes(_known_classes(config, sources, outputs))
    known = len(classes)
    rows = []
    for source in (sources[path] for path in config.data):
        classes.add(name for name in source.names if name not in classes)
        rows.append(Relabelled(source.rows, classes.table(source.names)))
    return Concat(rows), classes.names, known


def _load(config: Config, path: str) -> Source:
    options: dict[str, Any] = {"task": config.task, "channels": config.channels}
    if config.size:
        options["size"] = _size(config.size)
    if Path(path).is_file():
        Path(path).open("rb").close()  # who may not read it should hear that, and not that it is damaged
    try:
        source = load(path, target=config.target or None, features=config.features or None, **options)
    except ImportError as error:  # an optional dependency, with the way to install it
        raise ValueError(str(error)) from error
    if source.rows.resident:
        _clean(path, source.rows)
    return source


def _clean(path: str, rows: Rows) -> None:
    """Raises a `NonFiniteError` that names the path unless all numbers are of a size to compute with.

    Some rows at a time, since they may lie on disk. Images and whole numbers need not be looked at.
    """
    if not any(isinstance(column, torch.Tensor) and column.is_floating_point() for column in _sample(rows).values()):
        return
    for start in range(0, len(rows), 65_536):
        try:
            border.clean(rows.take(torch.arange(start, min(start + 65_536, len(rows)))))
        except border.NonFiniteError as error:
            after = f", after {start:,} rows" if start else ""
            raise border.NonFiniteError(f"{path}{after}: {error}") from error


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"cannot read --size {text!r}; expected pixels, as in 32, or HEIGHTxWIDTH, as in 32x48")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _sample(rows: Rows) -> Batch:
    return rows.take(torch.zeros(1, dtype=torch.int64))


def _alike(sources: dict[str, Source]) -> None:
    """Raises a ValueError unless all rows are of one kind, and tables have their features in one order."""
    (first, model), *others = ((path, _sample(source.rows).get("x")) for path, source in sources.items())
    if not isinstance(model, torch.Tensor):
        raise ValueError(  # noqa: TRY004 (what is wrong is the data)
            f"the rows of {first} are texts, or images that differ in size; expected numbers, or images of one size "
            "(--size resizes them)"
        )
    for path, x in others:
        if not isinstance(x, torch.Tensor) or (x.dtype, x.shape) != (model.dtype, model.shape):
            raise ValueError(
                f"all data must be of one kind, but the rows of {first} are {_kind(model)} and those of {path} "
                f"{_kind(x)}; save them alike" + (", or resize images by --size" if model.ndim == 4 else "")
            )
    features = {path: source.features for path, source in sources.items() if source.features}
    if len(set(features.values())) > 1:
        (one, its), (other, theirs) = next(
            ((a, features[a]), (b, features[b])) for a in features for b in features if features[a] != features[b]
        )
        raise ValueError(
            f"the columns of {one} are {', '.join(its)}, but those of {other} are {', '.join(theirs)}; name those "
            "that the model takes, in its order: --features a,b,..."
        )


def _kind(x: Column | None) -> str:
    return f"{x.dtype} of shape {tuple(x.shape[1:])}".removeprefix("torch.") if isinstance(x, torch.Tensor) else "texts"


def _none_unknown(what: str, names: tuple[str, ...], classes: Classes, way_out: str) -> None:
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(
            f"{what} has classes that the model does not know: {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            + f"; {way_out}"
        )


@dataclass(frozen=True, eq=False)
class Marked(Around):
    """Rows whose ids no other data has: they are those of `rows`, moved by `mark`."""

    rows: Rows
    mark: int

    def take(self, index: torch.Tensor) -> Batch:
        """The rows at `index`, under their new ids."""
        batch = self.rows.take(index)
        return batch | {"id": tensor(batch, "id") ^ self.mark}

    def column(self, name: str) -> Column:
        """The column's values; those of "id" are the new ids."""
        column = self.rows.column(name)
        return torch.as_tensor(column) ^ self.mark if name == "id" else column


def _distinct(path: Path, rows: Rows, source: Source) -> Rows:
    """The rows with ids of their own: a file of tomorrow may have the name and the places of one of today.

    The ids that a table has itself are kept, since they say which rows are the same.
    """
    ids = source.rows.column("id")
    own = path.is_file() and not torch.equal(torch.as_tensor(ids), row_ids(path.name, len(ids)))
    return rows if own else Marked(rows, name_id(source.fingerprint))


def _known_classes(config: Config, sources: dict[str, Source], outputs: int) -> tuple[str, ...]:
    """The names of the classes that the model answers for."""
    if config.classes:
        if len(config.classes) != outputs:
            raise ValueError(f"--classes names {len(config.classes)} classes, but the model has {outputs} outputs")
        return config.classes
    carried = read_classes(config.weights)
    if carried is not None:
        return carried
    weights = Path(config.weights)
    for beside in (weights.with_suffix(".safetensors"), weights.with_suffix("") / f"{weights.stem}.safetensors"):
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
    if not config.test:
        nothing = _nothing(train)
        return [nothing if r is None else Subset(r, _held_out(r, config.holdout, test=True)) for r in train], True
    if len(config.test) == len(train):
        return [rows[path] for path in config.test], False
    if len(config.test) > 1:
        raise ValueError(
            f"{len(config.test)} sets of test data were given; expected one, or {len(train)}: one for old data and one "
            f"for each of the arrivals ({len(config.data)})"
        )
    test = rows[config.test[0]]
    if regression:
        return [test for _ in train], False
    labels = torch.as_tensor(test.column("y"))
    parts = [torch.isin(labels, torch.tensor(own)).nonzero().flatten() for own in _own_classes(train, known)]
    for part, name in zip(parts, ("old data", *config.data), strict=True):
        if not len(part):
            raise ValueError(
                f"the test data {config.test[0]} has no rows for the classes of {name}; give one set for old data and "
                "one for each arrival, or leave --test out to hold rows out"
            )
    return [Subset(test, part) for part in parts], False


def _own_classes(train: list[Rows | None], known: int) -> list[list[int]]:
    """What the past and each arrival are tested on: the classes that came first with it, or else all that it has."""
    first = dict.fromkeys(range(known), 0)
    own = [list(first)]
    for index, rows in enumerate(train[1:], 1):
        labels = () if rows is None else _labels(rows)
        own.append([label for label in labels if first.setdefault(label, index) == index] or list(labels))
    return own


def _held_out(rows: Rows, share: float, *, test: bool) -> torch.Tensor:
    """Positions held out for testing, or those that are not: by the hash in the row's id, so they stay the same."""
    ids = torch.as_tensor(rows.column("id"))
    out = (ids % 1_000_003) < share * 1_000_003
    return (out if test else ~out).nonzero().flatten()


def _labels(rows: Rows) -> tuple[int, ...]:
    labels: Any = rows.column("y")  # an int64 tensor
    return tuple(labels.unique().tolist())


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
    # LBFGS wants to be given the loss again and again, and SparseAdam gradients that are sparse.
    if isinstance(cls, type) and issubclass(cls, Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam")
}


def make_optimizer(text: str) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The factory that `sgd:lr=0.001,momentum=0.9` describes; its settings are tried at once."""
    spec = parse(text)
    cls = _TAKES[one_of("optimizer", spec.name, _TAKES)]
    weight = nn.Parameter(torch.zeros(1, 1))
    make: Callable[..., Optimizer] = cls
    known = [name for name in make([weight], lr=0.1).defaults if name != "params"]
    call(spec.name, partial(make, [weight]), spec.settings, known)
    return partial(make, **spec.settings)


def make_scheduler(text: str) -> Callable[[Optimizer, int], LRScheduler] | None:
    """The factory that `cosine` or `step:step_size=100,gamma=0.5` describes, over the steps of an experience.

    Its settings are tried at once.
    """
    if not text:
        return None
    spec = parse(text)
    cls, known, over = _SCHEDULES[one_of("schedule", spec.name, _SCHEDULES)]

    def make(optimizer: Optimizer, steps: int, **settings: Any) -> LRScheduler:
        return cls(optimizer, **({over: max(1, steps)} if over else {}) | settings)

    def tried(**settings: Any) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        scheduler = make(optimizer, 3, **settings)
        optimizer.step()
        scheduler.step()

    call(spec.name, tried, spec.settings, known)
    return partial(make, **spec.settings)


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
    if isinstance(x, torch.Tensor) and x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"--normalize is for pixels and measurements, but {config.data[0]} holds {x.dtype}")
    return view(normalize=_normalization(config.normalize), augment=list(config.augment))


def _normalization(text: str) -> Any:
    mean, colon, std = text.partition(":")
    if not colon:
        return text
    try:
        return tuple(map(float, mean.split(","))), tuple(map(float, std.split(",")))
    except ValueError as error:
        raise ValueError(f"cannot read --normalize {text!r}; expected a name, or mean,...:std,...") from error


def use_machine(config: Config) -> None:
    """Sets the threads of torch; raises a ValueError unless the device can be computed on."""
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        torch.zeros(1, device=config.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the device {config.device!r} cannot be used ({reason}); expected cpu, cuda, cuda:1, mps, ..."
        ) from error


def outputs_of(model: nn.Module, config: Config) -> int:
    """How many outputs the head has."""
    return head_of(model, config.head or None)[1].out_features
