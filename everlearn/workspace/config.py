"""What a run is asked to do: one flat list of settings, from flags, from TOML, or from Python."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from everlearn.settings import by_name, in_toml


@dataclass(frozen=True)
class Config:
    """The settings of a run. Paths are absolute once the run has begun."""

    model: Annotated[
        str,
        "The model: FILE.py:NAME or MODULE:NAME of a class, with settings if it needs some: net.py:Net(outputs=5)",
    ] = ""
    weights: Annotated[str, "The weights to begin with: .pth, .pt or .safetensors."] = ""
    base: Annotated[
        str,
        "A pretrained model to begin with, in place of --model: torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME, or "
        "the model.safetensors of a run. Its head is fitted to the classes, its input is prepared as its own config "
        "says. --weights is then default (what its library has), none, or a file.",
    ] = ""
    data: Annotated[
        tuple[str, ...],
        "New data: class folders of images, x.npy and y.npy, .npz, .csv, .parquet, .jsonl; several arrive in turn.",
    ] = ()
    out: Annotated[str, "The updated weights (NAME.pth; the run's folder is then NAME), or the run's folder."] = ""
    old: Annotated[
        str,
        "Past data, if it is still there: the source of the memory and of the proof that nothing was forgotten.",
    ] = ""
    unlabelled: Annotated[
        tuple[str, ...],
        "Rows without labels of another domain, to which the model is adapted after --data, beside it; labels that "
        "they have are not looked at.",
    ] = ()
    test: Annotated[
        tuple[str, ...],
        "Test data: one set, which is split by class into old and new, or one for old data and each arrival.",
    ] = ()
    memory: Annotated[str, "What an earlier run remembered: its memory.checkpoint."] = ""
    method: Annotated[
        str, "How the old is kept: names and settings joined by +, as in er:memory=2000+ewc:lambda=100."
    ] = "er"
    strategy: Annotated[
        str,
        "How a base is tuned: probe, finetune, lpft, l2sp, ..., or for rows without labels dann, mcc, ...; auto: what "
        "the amount of data speaks for. --method is added to it.",
    ] = ""
    freeze: Annotated[
        tuple[str, ...],
        "What of the model does not learn: names of its parts with * for any, a share such as 0.5, a number of blocks, "
        "or body for all but the head.",
    ] = ()
    norm: Annotated[str, "Batch normalisation of frozen parts: frozen, adapt or recompute."] = "frozen"
    compare: Annotated[bool, "Also train by plain fine-tuning, and show what it would have lost."] = False
    classes: Annotated[
        tuple[str, ...], "The names of the classes that the model answers for, in the order of its outputs."
    ] = ()
    task: Annotated[str, "classification or regression."] = "classification"
    target: Annotated[str, "The column of a table that holds the answer."] = ""
    features: Annotated[tuple[str, ...], "The columns of a table that the model takes, in its order."] = ()
    size: Annotated[str, "Resize images to SIZE or HEIGHTxWIDTH; without it all must have one size."] = ""
    channels: Annotated[int, "Channels of images: 3 (RGB) or 1 (grey)."] = 3
    normalize: Annotated[
        str,
        "What the model was trained on: unit (0 to 1), imagenet, cifar10, cifar100, mnist, none, or mean,...:std,... "
        "(default: what the base says, else unit).",
    ] = ""
    augment: Annotated[tuple[str, ...], "Augmentation in training: flip, crop:4, rotate:15, colour:0.4."] = ()
    head: Annotated[str, "The dotted name of the classification head; without it the last linear layer."] = ""
    epochs: Annotated[int, "Passes over each arrival."] = 10
    batch_size: Annotated[int, "Rows for each step of the optimizer."] = 32
    optimizer: Annotated[
        str,
        "Any optimizer of torch.optim, with its settings (default: sgd:lr=0.01,momentum=0.9, or what a strategy has).",
    ] = ""
    scheduler: Annotated[
        str,
        "A schedule of the learning rate over each arrival: cosine, linear, step:step_size=...,gamma=... .",
    ] = ""
    clip: Annotated[float, "The largest norm of the gradient; 0: no limit."] = 0.0
    accumulate: Annotated[int, "Pieces that each batch is computed in, to save memory."] = 1
    precision: Annotated[str, "float32, bf16 or fp16."] = "float32"
    device: Annotated[str, "cpu, cuda, mps, ..."] = "cpu"
    compile: Annotated[bool, "Run the model through torch.compile."] = False
    workers: Annotated[int, "Processes that load data which does not fit into memory."] = 0
    threads: Annotated[int, "Threads of torch; 0: its own choice. Bit-exact resume needs the same number."] = 0
    seed: Annotated[int, "Names all random choices of the run."] = 0
    drop_last: Annotated[bool, "Leave out the last batch of an epoch where it is smaller than the others."] = False
    holdout: Annotated[float, "The share of old and new rows that is kept for testing where no test data is given."] = (
        0.2
    )
    coverage: Annotated[float, "The share of the model's parameters that the weights must fill."] = 0.9
    checkpoint_steps: Annotated[int, "Steps between checkpoints."] = 200
    checkpoint_seconds: Annotated[float, "Seconds between checkpoints, at most."] = 30.0
    memory_on_disk: Annotated[bool, "Keep the memory in files of the run's folder, for memories larger than RAM."] = (
        False
    )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


TYPES = get_type_hints(Config)
"""The types of the settings, by name."""

HELP = {name: hint.__metadata__[0] for name, hint in get_type_hints(Config, include_extras=True).items()}
"""What each setting means, by name."""

_BOUNDS = dict.fromkeys(("epochs", "batch_size", "accumulate"), (1, math.inf))
_BOUNDS |= dict.fromkeys(("clip", "workers", "threads", "checkpoint_steps", "checkpoint_seconds"), (0, math.inf))
_BOUNDS |= {"coverage": (0, 1), "holdout": (0, 0.9)}
_CHOICES = {
    "task": ("classification", "regression"),
    "precision": ("float32", "bf16", "fp16"),
    "norm": ("frozen", "adapt", "recompute"),
}

REQUIRED = ("model", "weights", "data", "out")
_OF_MODELS = ("model", "weights")
"""What a base stands for."""


def make(given: Mapping[str, Any], where: str = "", required: tuple[str, ...] | None = None) -> Config:
    """A config from settings by name; unknown names, wrong types and missing ones are ValueErrors.

    `where` says in errors where the settings stand, if they stand in a file.
    """
    where = f"{where}: " if where else ""
    values = by_name(given, TYPES, where)
    for name, value in values.items():
        least, most = _BOUNDS.get(name, (-math.inf, math.inf))
        if name in _BOUNDS and not least <= value <= most:  # NaN compares false
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{where}{name} must be {bounds}, but is {value}")
    for name, choices in _CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise ValueError(f"{where}{name} must be one of {', '.join(choices)}, but is {values[name]!r}")
    config = Config(**values)
    required = required or REQUIRED
    if config.base:
        if config.model:
            raise ValueError(
                f"{where}--base {config.base} and --model {config.model} name two models; give one of them"
            )
        required = ("base", *(name for name in required if name not in _OF_MODELS))
    missing = [f"--{name}" for name in required if not values.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, as flags or in the file of --config")
    _together(config, where)
    return config


def _together(config: Config, where: str) -> None:
    """Raises a ValueError for settings that mean nothing without others."""
    if config.strategy and not config.base:
        raise ValueError(f"{where}the strategy {config.strategy} tunes a base; name it by --base, in place of --model")
    if config.unlabelled and not config.strategy:
        raise ValueError(f"{where}it is everlearn transfer that adapts to rows without labels; leave --unlabelled out")
    if config.norm != "frozen" and not config.freeze:
        raise ValueError(
            f"{where}--norm {config.norm} is of parts that are frozen, and none is; say which by --freeze, or leave "
            "--norm out"
        )


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file; a relative path in it is relative to the file."""
    path = Path(path)
    given = in_toml(path)
    for name in ("weights", "old", "memory", "out"):
        if isinstance(given.get(name), str) and (name != "weights" or given[name] not in NO_FILES):
            given[name] = str(path.parent / given[name])
    for name in ("data", "unlabelled", "test"):
        listed = [given[name]] if isinstance(given.get(name), str) else given.get(name)
        if isinstance(listed, list):  # anything else is refused later, with all that is of the wrong type
            given[name] = [str(path.parent / item) if isinstance(item, str) else item for item in listed]
    for name in ("model", "base"):
        if isinstance(given.get(name), str) and _is_path(given[name]):
            given[name] = str(path.parent / given[name])
    return given


def settled(config: Config) -> Config:
    """The config with absolute paths, so that the run can be resumed from anywhere."""
    here = {f.name: getattr(config, f.name) for f in fields(config)}
    for name in ("weights", "old", "memory", "out"):
        file = here[name] and (name != "weights" or here[name] not in NO_FILES)
        here[name] = str(Path(here[name]).absolute()) if file else here[name]
    for name in ("data", "unlabelled", "test"):
        here[name] = tuple(str(Path(item).absolute()) for item in here[name])
    for name in ("model", "base"):
        file, colon, rest = here[name].partition(".py:")
        if _is_path(here[name]):
            here[name] = f"{Path(file).absolute()}{colon}{rest}"
    return Config(**here)


NO_FILES = ("default", "none")
"""What --weights may be, beside a file, where there is a base."""


def _is_path(text: str) -> bool:
    """Whether a model is named by a file: code, or weights that say what they are of."""
    return ".py:" in text or text.endswith((".safetensors", ".pth"))


def normalization(text: str) -> Any:
    """What --normalize says: a name, or means and standard deviations."""
    mean, colon, std = text.partition(":")
    if not colon:
        return text
    try:
        return tuple(map(float, mean.split(","))), tuple(map(float, std.split(",")))
    except ValueError as error:
        raise ValueError(f"cannot read --normalize {text!r}; expected a name, or mean,...:std,...") from error


def sides(text: str) -> int | tuple[int, int]:
    """What --size says: one side, or height and width."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"cannot read --size {text!r}; expected pixels, as in 32, or HEIGHTxWIDTH, as in 32x48")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
