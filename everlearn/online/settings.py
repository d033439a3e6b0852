"""What a service is asked to do: one flat list of settings, from flags, from TOML, or from Python."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from everlearn.online.span import Span
from everlearn.settings import by_name, in_toml

KIND = "stream"
"""What config.json says of the run."""


@dataclass(frozen=True)
class Settings:
    """The settings of a service. Paths are absolute once it has begun."""

    source: Annotated[
        str,
        "Where rows come from: PATH.csv, .jsonl or .parquet, a folder of those, redis://HOST/STREAM, "
        "nats://HOST/STREAM, kafka://HOST/TOPIC.",
    ] = ""
    out: Annotated[str, "The folder of the run."] = ""
    label: Annotated[str, "The column that holds the label (default: label, y, target or class)."] = ""
    id: Annotated[
        str, "The column that names a row: what comes twice is learned once (default: id, else its place)."
    ] = ""
    time: Annotated[str, "The column that says when a row happened (default: time, if there is one)."] = ""
    features: Annotated[tuple[str, ...], "The columns to learn from (default: all others)."] = ()
    texts: Annotated[tuple[str, ...], "Columns that hold texts, even if they look like numbers."] = ()
    follow: Annotated[bool, "Wait for more at the end of a file that grows."] = False
    task: Annotated[str, "classification or regression."] = "classification"
    model: Annotated[str, "mlp:hidden=64x64, hedge:layers=20,width=100, or FILE.py:NAME(SETTINGS)."] = (
        "mlp:hidden=64x64"
    )
    classes: Annotated[
        tuple[str, ...], "Names of classes, for a model of fixed size; others are met as they come."
    ] = ()
    method: Annotated[str, "How the old is kept: naive, er:memory=1000, derpp, ...; see everlearn methods."] = "naive"
    optimizer: Annotated[str, "Any optimizer of torch.optim, with its settings."] = "sgd:lr=0.01"
    batch_size: Annotated[int, "Rows for each step of the optimizer."] = 1
    scale: Annotated[bool, "Standardise each column by its mean and variance so far."] = True
    drift: Annotated[str, "What watches the errors: detectors joined by +; none for nobody."] = "adwin+page-hinkley"
    reactions: Annotated[str, "What happens at a drift: alert, boost, recent, refresh, ... joined by +."] = "alert"
    cooldown: Annotated[int, "Rows after a drift in which no other is reported."] = 500
    window: Annotated[int, "Rows of the sliding accuracy."] = 1000
    label_delay: Annotated[
        str, "Hold the label of each row back for so many rows (500) or so long (30s, 10m, 2h, 7d)."
    ] = ""
    expiry: Annotated[str, "Give a row up whose label takes longer: rows (10000) or time (7d) (default: never)."] = ""
    capacity: Annotated[int, "Rows that may wait for their labels; beyond it the oldest is given up."] = 10_000
    corrections: Annotated[int, "The latest labelled rows, whose labels may still be corrected."] = 1000
    duplicates: Annotated[int, "The latest ids among which what comes twice is recognised."] = 100_000
    bad_rows: Annotated[
        str, "Stop when more rows than this cannot be read or learned: a number, or a share such as 1%."
    ] = "100"
    queue: Annotated[
        int,
        "Learn in a thread behind the predictions, which then never wait: at most so many rows wait for it, beyond "
        "that some are shed. 0: learn each row before the next is answered, exactly the same in each run.",
    ] = 0
    publish: Annotated[int, "With a queue: steps after which predictions are made with the new weights."] = 50
    predictions: Annotated[bool, "Write each prediction to predictions.jsonl."] = False
    checkpoint_rows: Annotated[int, "Records between checkpoints; 0: only the seconds count."] = 0
    checkpoint_seconds: Annotated[float, "Seconds between checkpoints, at most."] = 30.0
    threads: Annotated[int, "Threads of torch; bit-exact resume needs the same number."] = 1
    seed: Annotated[int, "Names all random choices of the run."] = 0

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def delay(self) -> Span | None:
        """How long labels are held back."""
        return Span.of(self.label_delay, "label_delay") if self.label_delay else None

    @property
    def patience(self) -> Span | None:
        """How long a row waits for its label."""
        return Span.of(self.expiry, "expiry") if self.expiry else None

    def settled(self) -> "Settings":
        """With absolute paths, so that a service can be resumed from anywhere."""
        model, code, rest = self.model.partition(".py:")
        return replace(
            self,
            out=str(Path(self.out).absolute()),
            source=self.source if "://" in self.source else str(Path(self.source).absolute()),
            model=f"{Path(model).absolute()}.py:{rest}" if code else self.model,
        )


TYPES = get_type_hints(Settings)
"""The types of the settings, by name."""

HELP = {name: hint.__metadata__[0] for name, hint in get_type_hints(Settings, include_extras=True).items()}
"""What each setting means, by name."""

_LEAST = dict.fromkeys(("batch_size", "window", "capacity", "duplicates", "publish", "threads"), 1)
_LEAST |= dict.fromkeys(("corrections", "queue", "cooldown", "checkpoint_rows", "checkpoint_seconds"), 0)


def make_settings(given: Mapping[str, Any], where: str = "") -> Settings:
    """Settings by name; unknown names, wrong types and missing ones are ValueErrors.

    `where` says in errors where they stand, if they stand in a file.
    """
    where = f"{where}: " if where else ""
    values = by_name(given, TYPES, where)
    for name, least in _LEAST.items():
        if not least <= values.get(name, least) < math.inf:  # NaN compares false
            raise ValueError(f"{where}{name} must be at least {least}, but is {values[name]}")
    settings = Settings(**values)
    if settings.task not in ("classification", "regression"):
        raise ValueError(f"{where}task must be classification or regression, but is {settings.task!r}")
    missing = [f"--{name}" for name in ("source", "out") if not values.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, as flags or in the file of --config")
    if settings.queue and settings.queue < settings.batch_size:
        raise ValueError(
            f"{where}a queue of {settings.queue} rows never fills a batch of {settings.batch_size}; make it longer"
        )
    _check_delay(settings, where)
    return settings


def _check_delay(settings: Settings, where: str) -> None:
    """Whether rows wait for as long as their labels are held back, as far as that can be known."""
    delay, patience = settings.delay, settings.patience
    if delay and patience and delay.timed == patience.timed and delay.amount > patience.amount:
        raise ValueError(
            f"{where}labels are held back for {delay} (label_delay), but rows are given up after {patience} (expiry), "
            "so labels would come too late; make expiry longer, or leave it out"
        )
    if delay and not delay.timed and delay.amount >= settings.capacity:
        raise ValueError(
            f"{where}labels are held back for {delay} (label_delay), but only {settings.capacity:,} rows may wait "
            "(capacity), so labels would come too late; make capacity larger"
        )


def is_service(folder: str | Path) -> bool:
    """Whether the run in a folder is one of a stream."""
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("kind") == KIND


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file; a relative path in it is relative to the file."""
    path = Path(path)
    given = in_toml(path)
    for name in ("source", "out"):
        if isinstance(given.get(name), str) and "://" not in given[name]:
            given[name] = str(path.parent / given[name])
    if isinstance(given.get("model"), str) and ".py:" in given["model"]:
        given["model"] = str(path.parent / given["model"])
    return given
