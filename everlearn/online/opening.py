"""Beginning a service and going on with one: all is tried that can be tried before anything is written."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from everlearn.checkpoint import write
from everlearn.environment import environment
from everlearn.metrics.prequential import Prequential
from everlearn.online.drift import Drift
from everlearn.online.engine import Online
from everlearn.online.making import make_online
from everlearn.online.service import Service
from everlearn.online.settings import KIND, Settings, make_settings
from everlearn.streams.feed import Feed
from everlearn.streams.opening import open_feed


def begin_service(settings: Settings) -> Service:
    """A new service in its folder. Nothing is written before all that it needs is known to be there."""
    settings = settings.settled()
    folder = Path(settings.out)
    # A process that was killed while it wrote config.json leaves a hidden file, and no run.
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        if (folder / "config.json").exists():
            what = f"there is a run in {folder} already; go on with it (everlearn resume {folder}), or"
        else:
            what = f"{folder} is not empty;"
        raise ValueError(f"{what} choose another --out")
    service = _open(settings)
    try:
        service.feed.read(1)  # a column that is not there, a server that does not answer
        service.feed.seek(None)
    except Exception:
        service.feed.close()
        raise
    folder.mkdir(parents=True, exist_ok=True)
    record = {"kind": KIND, "settings": settings.to_json(), "environment": environment()}
    _write(folder / "config.json", record, settings)
    return service


def resume_service(folder: str | Path, say: Callable[[str], None], changes: Mapping[str, Any] | None = None) -> Service:
    """The service in a folder, with the settings that it began with, but for `changes` of what decides no result."""
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given, then = dict(record["settings"]), dict(record["environment"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or not what everlearn stream wrote ({error}); begin a new run") from error
    settings = make_settings(given, str(path))
    if Path(settings.out).resolve() != Path(folder).resolve():
        raise ValueError(f"the run in {folder} was made in {settings.out}; move it back, or begin a new one")
    if changes:
        settings = replace(settings, **changes)
        _write(path, record | {"settings": settings.to_json()}, settings)
    service = _open(settings)
    for name, value in environment().items():
        if then.get(name) != value:
            say(f"{name} was {then.get(name)} and is {value}: the result may differ in its last bits")
    return service


def _write(path: Path, record: Mapping[str, Any], settings: Settings) -> None:
    """Writes config.json; what may hold a password can be read by its owner alone."""
    write(path, json.dumps(record, indent=2).encode())
    if "://" in settings.source:
        path.chmod(0o600)


def _open(settings: Settings) -> Service:
    torch.set_num_threads(settings.threads)
    online = _online(settings)
    drift = None
    if settings.drift not in ("", "none"):
        drift = Drift(settings.drift, settings.reactions, cooldown=settings.cooldown, make=lambda: _online(settings))
    kind: Literal["accuracy", "error"] = "accuracy" if settings.task == "classification" else "error"
    score = Prequential(kind, window=settings.window)
    replicas = (_online(settings), _online(settings)) if settings.queue else None
    feed = _feed(settings)
    try:
        return Service(settings, feed, online, score, drift, replicas=replicas)
    except ValueError:
        feed.close()
        raise


def _online(settings: Settings) -> Online:
    own = ".py:" in settings.model  # such a model has its size, and cannot grow
    return make_online(
        model=settings.model,
        method=settings.method,
        optimizer=settings.optimizer,
        task=_task(settings),
        seed=settings.seed,
        fields=settings.features if own else (),
        classes=settings.classes,
        scale=settings.scale,
    )


def _task(settings: Settings) -> Literal["classification", "regression"]:
    return "regression" if settings.task == "regression" else "classification"


def _feed(settings: Settings) -> Feed:
    named = {name: value for name in ("label", "id", "time", "features", "texts") if (value := vars(settings)[name])}
    if settings.follow:
        named["follow"] = True
    return open_feed(settings.source, task=_task(settings), **named)
