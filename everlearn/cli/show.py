"""What a person sees: progress while a run works, tables when it is done."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from everlearn.checkpoint import terminating
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.methods import METHODS
from everlearn.methods.composition import parameters
from everlearn.objective import classify, regress
from everlearn.spec import one_of
from everlearn.workspace.config import Config
from everlearn.workspace.parts import load_model, load_questions, make_optimizer, make_view, outputs_of
from everlearn.workspace.run import Moment, Run

console = Console(highlight=False)


def say(text: str) -> None:
    """One line for the person."""
    console.print(text, style="yellow", markup=False)


def work(run: Run, *, quiet: bool = False) -> None:
    """Works until the run is done, showing how far it is; SIGTERM and Ctrl-C save and leave."""
    if run.done:
        console.print(f"The run in {run.folder} is done already.")
    else:
        if not quiet:
            console.print(str(run.loaded), style="dim", markup=False)
        for path in run.data.quarantined:
            say(f"left out, because it does not decode: {path}")
        with terminating(signal.SIGTERM, signal.SIGINT) as asked, _progress() as show:
            for moment in run.steps():
                show(moment)
                if asked():
                    run.save()
                    break
        if not run.done:
            console.print(f"Saved. Go on with: everlearn resume {run.folder}")
            sys.exit(0)
    run.report().to_terminal(console)
    _results(run)


def _results(run: Run) -> None:
    stem = run.folder / f"{run.stem}.pth"
    console.print(
        f"weights  {stem} and .safetensors" + (f", {run.config.out}" if run.writes_weights else ""),
        markup=False,
    )
    console.print(f"memory   {run.folder / 'memory.checkpoint'}", markup=False)
    console.print(f"report   {run.folder / 'report.html'} and .json", markup=False)


@contextmanager
def _progress() -> Iterator["_Show"]:
    columns: Iterable[ProgressColumn | str] = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Speed(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Show(progress)


class _Show:
    """A bar for each contender and arrival."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[tuple[str, str], int] = {}

    def __call__(self, moment: Moment) -> None:
        key = (moment.contender, moment.experience)
        if key not in self.tasks:
            title = f"{moment.contender}: {moment.experience}"
            self.tasks[key] = self.progress.add_task(
                title, total=moment.of, completed=moment.place - 1, rows=moment.rows
            )
        self.progress.update(self.progress.tasks[self.tasks[key]].id, completed=moment.place)


class _Speed(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * task.fields['rows']:,.0f} rows/s", style="cyan")


def scored(config: Config) -> None:
    """The score of a model on data, by class."""
    model, report = load_model(config)
    console.print(str(report), style="dim", markup=False)
    learner = Learner(
        model,
        objective=classify if config.task == "classification" else regress,
        optimizer=make_optimizer(config.optimizer),
        device=config.device,
    )
    rows, classes = load_questions(config, outputs_of(model, config))
    learner.view = make_view(config, rows)
    if config.task == "regression":
        result = learner.evaluate(rows, kind="error")
        console.print(f"mean squared error {result.value:.6g} on {result.count:,} rows")
        return
    result = learner.evaluate(rows, names=classes)
    table = Table("class", "accuracy", "right", "rows", title=f"{result.value:.2%} of {result.count:,} rows")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (right, count) in result.by_class.items():
        table.add_row(name, f"{right / count:.2%}", f"{right:,}", f"{count:,}")
    console.print(table)


def list_methods(name: str) -> None:
    """All methods, or one in detail."""
    if name:
        cls = METHODS[one_of("method", name.replace("++", "pp"), METHODS)]
        console.print(f"{sys.modules[cls.__module__].__doc__}\n{cls.__doc__}", markup=False)
    table = Table("name", "idea", "settings and defaults", title="methods; join them with +, as in er:memory=2000+ewc")
    for key, cls in METHODS.items():
        if name in ("", key):
            table.add_row(key, _idea(cls), ", ".join(f"{p.name}={_shown(p.default)}" for p in parameters(cls)))
    console.print(table)


def _idea(cls: type[Method]) -> str:
    return (sys.modules[cls.__module__].__doc__ or "").splitlines()[0]


def _shown(value: object) -> str:
    return (
        {None: "none", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, float)
        else f"{value:g}"
    )  # type: ignore[call-overload]
