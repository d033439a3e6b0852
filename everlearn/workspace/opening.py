"""Beginning a run and going on with one: all is tried that can be tried before anything is written or learned."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from everlearn import checkpoint
from everlearn.data import is_images
from everlearn.environment import environment
from everlearn.models.named import model_file
from everlearn.transfer.frozen import frozen_report
from everlearn.workspace.arrivals import Data, arrange, load_sources
from everlearn.workspace.config import Config, make, settled
from everlearn.workspace.folder import folder_of, weights_of
from everlearn.workspace.model import load_model, outputs_of
from everlearn.workspace.run import Run
from everlearn.workspace.strategies import adapting, propose, settle
from everlearn.workspace.training import use_machine
from everlearn.workspace.transferring import arrange_transfer


def begin(config: Config) -> Run:
    """A new run, once everything it needs is known to fit. Nothing is written before that."""
    config = settled(config)
    folder = folder_of(config.out)
    if (folder / "config.json").exists():
        raise ValueError(
            f"there is a run in {folder} already; go on with it (everlearn resume {folder}), or choose another --out"
        )
    names = ("memory.checkpoint", "report.html", "report.json", "checkpoints", "memory")
    for path in (*weights_of(config.out), *(folder / name for name in names)):
        if path.exists():
            raise ValueError(f"{path} is there already, and nothing is overwritten; choose another --out, or remove it")
    for given in filter(None, (*config.data, config.old, *config.unlabelled, *config.test)):
        if is_images(given) and Path(given).resolve() in (folder.resolve(), *folder.resolve().parents):
            raise ValueError(
                f"--out {config.out} would lie in the data {given}, and be read as data; choose another --out"
            )
    inputs = {"the settings": _settings(config.to_json())}
    run = _prepare(config, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"config": config.to_json(), "inputs": inputs, "environment": environment()}
    checkpoint.write(folder / "config.json", json.dumps(record, indent=2).encode())
    return run


def resume(out: str | Path, say: Callable[[str], None]) -> Run:
    """The run in a folder, if it is asked of the same model, settings and data as before."""
    folder = folder_of(out)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"there is no run in {folder}; expected the --out of a run, a stream or a backtest")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings, inputs, then = (dict(record[name]) for name in ("config", "inputs", "environment"))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or not what everlearn learn wrote ({error}); begin a new run") from error
    config = make(settings, str(path))
    _unchanged(inputs, {"the settings": _settings(settings)})
    if folder_of(config.out).resolve() != folder.resolve():
        raise ValueError(f"the run in {folder} was made in {folder_of(config.out)}; move it back, or begin a new one")
    run = _prepare(config, inputs)
    for name, value in environment().items():
        if then.get(name) != value:
            say(f"{name} was {then.get(name)} and is {value}: the result may differ in its last bits")
    return run


def _prepare(config: Config, inputs: dict[str, str]) -> Run:
    """Loads model and data and tries everything that can be tried without learning.

    `inputs` are the hashes of what the result depends on; those that it lacks are added, and others that differ are a
    ValueError.
    """
    use_machine(config)
    code = model_file(config.model) if config.model else _file_of(config.base)
    files = {"model": code, "weights": Path(config.weights), "memory": Path(config.memory)}
    there = {f"{name} {path}": path for name, path in files.items() if path is not None and path.is_file()}
    _unchanged(inputs, {name: _hash(path.read_bytes()) for name, path in there.items()})
    if config.strategy != "auto":
        config = settle(config)
    loaded = load_model(config)
    sources = load_sources(config, loaded)
    _unchanged(inputs, {f"data {path}": source.fingerprint for path, source in sources.items()})
    if config.strategy:
        data = arrange_transfer(config, sources, texts=loaded.text)
    else:
        data = arrange(config, sources, outputs_of(loaded.model, config), loaded)
    _unchanged(inputs, {"the classes": _hash(json.dumps(data.classes).encode())})
    proposal = propose(config, data, loaded) if config.strategy == "auto" else None
    if proposal is not None:
        config = settle(config, proposal)
    run = Run(config, data, loaded.report, _memory(config, data) if config.memory else None)
    if config.freeze:
        run.frozen = str(frozen_report(loaded.model))
    if proposal is not None:
        run.strategy, run.reason = proposal.name, proposal.reason
    elif config.strategy and config.unlabelled and not adapting(config.method):
        run.reason = "it learns nothing from rows without labels: the control of an adaptation"
    with TemporaryDirectory() as folder:
        for method in run.contenders.values():
            run.rehearse(method, Path(folder))
    return run


def _file_of(base: str) -> Path | None:
    """The file that a base is in, or whose code makes it."""
    file, code, _ = base.partition(".py:")
    return Path(f"{file}.py") if code else Path(base)


def _unchanged(inputs: dict[str, str], now: dict[str, str]) -> None:
    if changed := [name for name, value in now.items() if inputs.setdefault(name, value) != value]:
        raise ValueError(
            f"these are not what they were when the run began: {', '.join(changed)}. Going on would mix two runs; "
            "bring them back, or begin a new run"
        )


def _memory(config: Config, data: Data) -> dict[str, Any]:
    """What an earlier run remembered, if this one can go on with it."""
    path = Path(config.memory)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; --memory takes the memory.checkpoint of an earlier run")
    kept = checkpoint.load(path)
    if not {"method", "seed", "task", "state", "classes", "folder"} <= kept.keys():
        raise ValueError(f"{path} is a checkpoint of something else; --memory takes the memory.checkpoint of a run")
    if kept["task"] != config.task:
        raise ValueError(f"the memory {path} is of {kept['task']}, but this is {config.task}")
    known = data.classes[: data.known]
    if tuple(kept["classes"]) != known:
        raise ValueError(
            f"the memory {path} is of a model for {', '.join(kept['classes'])}, but this one answers for "
            f"{', '.join(known)}; give the weights that the same run made"
        )
    return kept


def _settings(settings: dict[str, Any]) -> str:
    return _hash(json.dumps(settings, sort_keys=True).encode())


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]
