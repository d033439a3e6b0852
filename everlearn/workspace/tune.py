"""Hyperparameters chosen on the first arrivals: nothing that comes later, and no test row, is looked at.

OUT/trials.log      what was tried, as Optuna keeps it: another call goes on from there
OUT/trials.json     settings and scores, best first
OUT/tuned.toml      the settings of the whole job with the best ones in their places
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from everlearn import checkpoint
from everlearn.border import NonFiniteError
from everlearn.metrics import average_accuracy
from everlearn.spec import literal
from everlearn.workspace.config import Config, settled
from everlearn.workspace.folder import folder_of
from everlearn.workspace.opening import begin
from everlearn.workspace.run import Run

_RANGE = re.compile(r"(?P<key>\w+)=(?P<low>[^,+:|]+?)\.\.(?P<high>[^,+:|]+)")
_CHOICE = re.compile(r"(?P<key>\w+)=(?P<words>[^,+:|]+(?:\|[^,+:|]+)+)")
SEARCHED = ("method", "optimizer")
"""The settings of a run in which values may be left open."""


@dataclass(frozen=True)
class Open:
    """A value left open: `lambda=1..1e6` or `count=16|32|64`."""

    name: str
    """Where it stands and what it is called: `method.lambda`."""
    place: str
    """The text that a value takes the place of."""
    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it counts something."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def logarithmic(self) -> bool:
        """Whether its size matters, and not its difference: what is positive and spans a factor of ten or more."""
        return 0 < 10 * self.low <= self.high


def opened(config: Config) -> list[Open]:
    """The values that `config` leaves open.

    >>> opened(Config(method="er+ewc:lambda=1..1e6", optimizer="sgd:lr=0.1|0.01"))[0]
    Open(name='method.lambda', place='lambda=1..1e6', low=1, high=1000000.0, words=())
    """
    found = []
    for setting in SEARCHED:
        text: str = vars(config)[setting]
        for match in _RANGE.finditer(text):
            low, high = literal(match["low"]), literal(match["high"])
            if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)) or not low < high:
                raise ValueError(
                    f"cannot read the range {match[0]!r} in --{setting}; expected key=LOW..HIGH, as in lambda=1..1e6"
                )
            found.append(Open(f"{setting}.{match['key']}", match[0], low, high))
        found += [
            Open(f"{setting}.{match['key']}", match[0], words=tuple(match["words"].split("|")))
            for match in _CHOICE.finditer(text)
        ]
    names = [value.name for value in found]
    if double := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(double))} is left open twice; give one of the two a value")
    if not found:
        raise ValueError(
            "nothing is left open; give a range or a choice in --method or --optimizer, as in "
            "--method er+ewc:lambda=1..1e6 or --optimizer sgd:lr=0.1|0.01"
        )
    return found


def settled_on(config: Config, values: dict[str, Any]) -> Config:
    """The config with a value in each open place."""
    for value in opened(config):
        setting, _, key = value.name.partition(".")
        text = vars(config)[setting].replace(value.place, f"{key}={_said(values[value.name])}", 1)
        config = replace(config, **{setting: text})
    return config


@dataclass(frozen=True)
class Trial:
    """Values that were tried, and what came out: the mean over what was learned so far, NaN where it diverged."""

    number: int
    values: dict[str, Any]
    score: float


def _through(run: Run) -> None:
    for _ in run.steps():
        pass


def tune(config: Config, trials: int, first: int = 1, learn: Callable[[Run], None] = _through) -> Iterator[Trial]:
    """Tries values until there are `trials` trials, and yields each. Writes OUT/tuned.toml at the end.

    A trial learns the first `first` arrivals, without `--test`: what it is scored on is held out of their training
    rows, so the rows that the job is tested on later are never read. The score is the average accuracy over the past
    and these arrivals (for regression, minus the mean squared error). `learn` goes through a run.
    """
    config = settled(config)
    spaces, out = opened(config), folder_of(config.out)
    if not 1 <= first <= len(config.data):
        raise ValueError(f"first must be from 1 to the number of arrivals, {len(config.data)}, but is {first}")
    out.mkdir(parents=True, exist_ok=True)
    study = _study(out, config, first)
    while len(done := _done(study)) < trials:
        asked = study.ask()
        values = {space.name: _suggest(asked, space) for space in spaces}
        alone = replace(settled_on(config, values), data=config.data[:first], test=(), compare=False)
        with TemporaryDirectory(prefix="trial-", dir=out) as folder:
            run = begin(replace(alone, out=f"{folder}/run"))
            try:
                learn(run)
                score = _score(run)
            except NonFiniteError:  # what these values lead to is a result as well
                score = math.nan
        if math.isfinite(score):
            study.tell(asked, score)
        else:
            study.tell(asked, state=_failed())
        yield Trial(asked.number, values, score)
    best = [Trial(t.number, t.params, t.value) for t in done if t.value is not None]
    if not best:
        raise ValueError(f"none of {len(done)} trials came to a finite score; leave smaller learning rates open")
    best.sort(key=lambda trial: -trial.score)
    report = {"first": first, "trials": [vars(trial) for trial in best]}
    checkpoint.write(out / "trials.json", json.dumps(report, indent=2).encode())
    final = replace(settled_on(config, best[0].values), out=str(out / "model"))
    checkpoint.write(out / "tuned.toml", _toml(final).encode())


def _score(run: Run) -> float:
    *_, scores = run.scores.values()
    value = average_accuracy(scores.matrix())
    return value if scores.kind == "accuracy" else -value


def _suggest(trial: Any, space: Open) -> Any:
    if space.words:
        return trial.suggest_categorical(space.name, space.words)
    if space.whole:
        return trial.suggest_int(space.name, space.low, space.high, log=space.logarithmic)
    return trial.suggest_float(space.name, space.low, space.high, log=space.logarithmic)


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _study(out: Path, config: Config, first: int) -> Any:
    try:
        import optuna  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("tuning needs Optuna; install it: pip install 'everlearn[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(out / "trials.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(study_name="everlearn", storage=storage, direction="maximize", load_if_exists=True)
    about = config.to_json() | {"first": first}
    if study.user_attrs.setdefault("settings", about) != about:
        raise ValueError(f"{out} holds trials of another search; go on with its settings, or choose another --out")
    study.set_user_attr("settings", about)
    # A sampler has no state that could be saved: one that goes on must not draw what the first has drawn.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    return study


def _done(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.is_finished()]


def _failed() -> Any:
    import optuna  # noqa: PLC0415

    return optuna.trial.TrialState.FAIL


def _toml(config: Config) -> str:
    """The settings that are not at their defaults."""
    plain = Config().to_json()
    lines = [f"{name} = {json.dumps(value)}" for name, value in config.to_json().items() if value != plain[name]]
    return "\n".join(lines) + "\n"
