"""What each way of updating a model would have cost and given, on a log of one's own."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from everlearn.backtest.config import Config
from everlearn.backtest.run import Moment, Run, begin, is_backtest
from everlearn.backtest.run import resume as again
from everlearn.backtest.verdict import summary
from everlearn.cli.show import console, say
from everlearn.stopping import exit_code, terminating

__all__ = ["is_backtest", "replayed", "resumed"]


def replayed(**given: Any) -> None:
    """Replays the log with each policy, and shows what came out."""
    work(begin(Config(**given)))


def resumed(folder: Path) -> None:
    """Goes on where it was interrupted."""
    work(again(folder))


def work(run: Run) -> None:
    """Works until all policies are done; SIGTERM and Ctrl-C save and leave (`exit_code`)."""
    log = run.log
    console.print(
        f"{log.name}: {len(log):,} rows, labels {log.late}, {run.warm:,} rows of warm-up",
        style="dim", markup=False, soft_wrap=True,
    )  # fmt: skip
    for reason, count in log.left_out.items():
        say(f"left out, {count:,} x: {reason}")
    with terminating(signal.SIGTERM, signal.SIGINT) as asked, _progress(len(run.config.asked)) as show:
        steps = run.steps(say)
        for moment in steps:
            show(moment)
            if asked():
                steps.close()
                say(f"Saved. Go on with: everlearn resume {run.folder}")
                sys.exit(exit_code(asked()))
    report = run.report()
    console.print(report.table(console.width))
    console.print(summary(report.verdict), markup=False)
    console.print(f"report  {run.folder / 'report.html'}", markup=False, soft_wrap=True)


@contextmanager
def _progress(count: int) -> Iterator["_Show"]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Show(progress, count)


class _Show:
    """A bar for each policy."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress, self.count = progress, count
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, moment: Moment) -> None:
        if moment.policy not in self.tasks:
            title = f"{len(self.tasks) + 1}/{self.count} {moment.policy}"
            self.tasks[moment.policy] = self.progress.add_task(title, total=moment.of)
        self.progress.update(self.tasks[moment.policy], completed=moment.at)
