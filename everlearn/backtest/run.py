"""A backtest in a folder: interruptible at any instant, and gone on with by the same command.

OUT/backtest.json        what was asked, and the fingerprint of the log
OUT/checkpoints/POLICY/  where each policy is
OUT/report.json, report.html    when all are done
"""

import json
import platform
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import everlearn
from everlearn import checkpoint
from everlearn.backtest.archive import Archive
from everlearn.backtest.config import Config
from everlearn.backtest.log import Log, read_log
from everlearn.backtest.making import make_policy
from everlearn.backtest.outcome import Outcome, outcome_of
from everlearn.backtest.replay import Replay
from everlearn.backtest.report import Report
from everlearn.backtest.setup import Setup
from everlearn.backtest.verdict import judged
from everlearn.randomness import mix, seed_globals

ASKED = "backtest.json"
"""The file that says what was asked."""

SECONDS = 30.0
"""Between two checkpoints, about."""


@dataclass(frozen=True)
class Moment:
    """Where a backtest is."""

    policy: str
    at: int
    of: int
    """Rows."""


class Run:
    """All policies of a backtest, one after another. Made by `begin` or `resume`."""

    def __init__(self, config: Config, log: Log, *, every_seconds: float = SECONDS) -> None:
        self.config, self.log, self.every_seconds = config, log, every_seconds
        self.folder = Path(config.out)
        self.warm = log.warm_up(config.warmup)
        self.outcomes: list[Outcome] = []
        self._report: Report | None = None
        for text in config.asked:  # what cannot be made is refused before anything is done
            self._replay(text)

    @property
    def done(self) -> bool:
        """Whether there is a report."""
        return (self.folder / "report.html").is_file()

    def steps(self, say: Callable[[str], None] = print) -> Generator[Moment]:
        """Goes on to the end, and writes the report; each yield is a moment at which it may be left."""
        with checkpoint.locked(self.folder):
            for text in self.config.asked:
                yield from self._policy(text, say)
            self.report().write(self.folder)

    def report(self) -> Report:
        """What came out, once all policies are done."""
        if self._report is None:
            verdict = judged(self.outcomes, regression=self.log.regression, seed=self.config.seed)
            self._report = Report(f"Backtest of {Path(self.log.name).name}", verdict, self._facts(), self.log.timed)
        return self._report

    def _policy(self, text: str, say: Callable[[str], None]) -> Iterator[Moment]:
        keeper = checkpoint.Checkpoints(
            self.folder / "checkpoints" / _file_name(text), every_seconds=self.every_seconds, keep=2
        )
        seed_globals(mix(self.config.seed))
        replay = self._replay(text)
        saved = keeper.load(say)
        if saved is not None:
            replay.load_state_dict(saved)
        try:
            for at in replay.steps():
                if keeper.due() or replay.done:
                    keeper.save(replay.state_dict(), at)
                yield Moment(text, at, len(self.log))
        except GeneratorExit:  # who leaves here may come again
            keeper.save(replay.state_dict(), replay.at)
            raise
        except ValueError as error:
            where = f"after row {replay.at:,} of the log" if replay.at else "in the warm-up"
            raise ValueError(
                f"the policy {text}, {where}: {error}. What the others have done is kept: the same command without "
                "this policy goes on from there"
            ) from error
        self.outcomes.append(outcome_of(replay))

    def _replay(self, text: str) -> Replay:
        archive = Archive(self.log)
        archive.at(self.warm)
        return Replay(self.log, archive, make_policy(text, self._setup(archive)), self.warm)

    def _setup(self, archive: Archive) -> Setup:
        config = self.config
        gap = float(np.median(np.diff(self.log.clock)))
        return Setup(
            archive,
            self.warm,
            gap,
            config.features if ".py:" in config.model else (),
            **config.training,
        )

    def _facts(self) -> dict[str, Any]:
        config, log = self.config, self.log
        return {
            "log": Path(log.name).name,
            "rows": f"{len(log):,}, of which {log.labelled:,} have a label",
            "labels": log.late,
            **({"left out": log.left_out} if log.left_out else {}),
            "warm-up": f"{self.warm:,} rows, with the labels that had arrived by then; {_passes(config.epochs)}",
            "model": f"{config.model}, {config.encoder}, {config.optimizer}, batches of {config.batch_size}",
            "seed": config.seed,
            "made with": f"everlearn {everlearn.__version__}, torch {torch.__version__}, Python "
            f"{platform.python_version()}",
        }


def begin(config: Config, **options: Any) -> Run:
    """A backtest in a folder that is new, or one that the same settings began; it may have more policies now.

    Raises a ValueError for what cannot be done, and for another log or other settings than the folder has.
    """
    config = config.absolute()
    log = read_log(
        config.log,
        label=config.label or None,
        delay=config.delay,
        regression=config.task == "regression",
        sort=config.sort,
        time=config.time or None,
        id=config.id or None,
        features=config.features or None,
        texts=config.texts,
    )
    config = config if config.policies else replace(config, policies=_usual(len(log) - log.warm_up(config.warmup)))
    run = Run(config, log, **options)
    asked = run.folder / ASKED
    fingerprint = log.fingerprint()
    if asked.is_file():
        before = json.loads(asked.read_text(encoding="utf-8"))
        other = config.differs(Config.of(before["config"]))
        if before["fingerprint"] != fingerprint:
            other.append("the log itself")
        if other:
            raise ValueError(
                f"{run.folder} holds another backtest ({'; '.join(other)}); take another --out, or delete that folder"
            )
        if Config.of(before["config"]).asked != config.asked:
            (run.folder / "report.html").unlink(missing_ok=True)
    elif run.folder.is_dir() and any(run.folder.iterdir()):
        raise ValueError(f"{run.folder} has files of something else in it; take another --out")
    content = {"config": config.to_json(), "fingerprint": fingerprint}
    checkpoint.write(asked, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return run


def resume(folder: str | Path, **options: Any) -> Run:
    """The backtest in a folder, as it was asked."""
    content = json.loads((Path(folder) / ASKED).read_text(encoding="utf-8"))
    return begin(Config.of({**content["config"], "out": str(folder)}), **options)


def is_backtest(folder: str | Path) -> bool:
    """Whether a folder holds a backtest."""
    return (Path(folder) / ASKED).is_file()


def _usual(rows: int) -> tuple[str, ...]:
    """The policies to begin with, where nobody says which: ten turns of those that have turns."""
    every = max(1, rows // 10)
    return "never", f"retrain:every={every}", f"finetune:every={every}", "online"


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "+-=.," else "_" for c in text)
