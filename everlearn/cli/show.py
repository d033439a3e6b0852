"""What a person sees: progress while a run works, tables when it is done."""

import errno
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from everlearn.border import NonFiniteError
from everlearn.method import FAMILIES, Card, Method
from everlearn.methods import METHODS
from everlearn.methods.composition import parameters
from everlearn.metrics import Scores, wording
from everlearn.spec import one_of
from everlearn.stopping import exit_code, terminating
from everlearn.workspace.config import Config
from everlearn.workspace.exam import examine
from everlearn.workspace.folder import folder_of
from everlearn.workspace.run import Moment, Run
from everlearn.workspace.tune import tune

console = Console(highlight=False)


def say(text: str) -> None:
    """One line for the person."""
    console.print(text, style="yellow", markup=False, soft_wrap=True)


Tables = Callable[[Mapping[str, Scores]], Iterable[Table]]


def work(run: Run, *, quiet: bool = False, tables: Tables | None = None) -> None:
    """Works until the run is done, showing how far it is; SIGTERM and Ctrl-C save and leave (`exit_code`).

    Ends with `tables`, or else with the `outcome`.
    """
    if not quiet:
        _given(run)
    for path in run.data.quarantined:
        say(f"left out, because it does not decode: {path}")
    with terminating(signal.SIGTERM, signal.SIGINT) as asked, resumable(run.folder), _progress() as show:
        for moment in run.steps(say):
            show(moment)
            if asked():
                run.save()
                break
    if not run.done:
        say(f"Saved. Go on with: everlearn resume {run.folder}")
        sys.exit(exit_code(asked()))
    if all(scores.learned for scores in run.scores.values()):
        for table in tables(run.scores) if tables else [outcome(run.scores, run.past)]:
            console.print(table)
    if run.past:
        console.print(_verdict(run.scores), markup=False, soft_wrap=True)
    _results(run)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Says of what interrupts a run how it can go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ValueError(
            f"the disk is full ({error.strerror}). The last checkpoint is whole: free some space, then go on with "
            f"everlearn resume {folder}"
        ) from error
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error}. The run in {folder} is as it was at its last checkpoint; with other settings it is another run, "
            "with another --out"
        ) from error


def _given(run: Run) -> None:
    """What the run works with."""
    data = run.data
    lines = {"weights": ", ".join(str(run.loaded).splitlines()) if run.loaded else "none: all are drawn anew"}
    if run.strategy:
        lines["strategy"] = run.strategy + (f": {run.reason}" if run.reason else "")
        lines["optimizer"] = run.config.optimizer
    if run.frozen:
        lines["frozen"] = run.frozen
    new = data.classes[data.known :]
    for name, each in zip(data.names, (data.past, *data.arrivals), strict=True):
        if len(each.train):
            lines[name] = f"{len(each.train):,} rows"
            if each.reference is not None:
                lines[name] += f" without labels, beside {len(each.reference):,} with labels"
            elif run.config.task == "classification" and each is not data.past:
                brings = [data.classes[label] for label in each.classes if data.classes[label] in new]
                lines[name] += f", {'new ' * run.past}classes: {_listed(brings)}" if brings else ", no new classes"
                new = tuple(name for name in new if name not in brings)
    tests = sum(len(each.test) for each in (data.past, *data.arrivals))
    lines["tests"] = f"{tests:,} rows" + (", held out of the data, for want of --test" if data.held_out else "")
    for name, line in lines.items():
        _line(name, line, width=max(map(len, lines)))


def _line(name: str, text: str, width: int) -> None:
    console.print(f"{name:{width}}  {text}", style="dim", markup=False, soft_wrap=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def outcome(runs: Mapping[str, Scores], past: int = 1) -> Table:
    """What was known of each experience before and after, and what plain fine-tuning would have left of it.

    Before is before all arrivals; without a past, it is before the experience itself.
    """
    *others, kept = runs.values()
    last = kept.learned - 1
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("accuracy, %" if kept.kind == "accuracy" else "mean squared error", overflow="fold")
    for title in ("test rows", "before", "after", *list(runs)[:-1]):
        table.add_column(title, justify="right")
    for on in range(kept.learned):
        asked = kept.at(last, on)
        if on < past and asked is None:
            continue  # of a past that is gone there is nothing to say
        before = kept.at(0 if past else on - 1, on)
        cells = [before, asked, *(other.at(last, on) for other in others)]
        table.add_row(
            Text(kept.name(on)),
            f"{asked.count:,}" if asked else wording.UNKNOWN,
            *(wording.level(score.value if score else None, kept.kind) for score in cells),
        )
    return table


def histories(runs: Mapping[str, Scores]) -> Iterator[Table]:
    """For each method a table: what was known of each experience after each."""
    for name, scores in runs.items():
        table = Table(
            box=SIMPLE_HEAD, pad_edge=False, title=f"{name}: accuracy, %, after each arrival", title_justify="left"
        )
        table.add_column("after learning")
        for on in range(scores.learned):
            table.add_column(Text(scores.name(on)), justify="right")
        for after in range(scores.learned):
            known = [scores.at(after, on) if on <= after else None for on in range(scores.learned)]
            table.add_row(
                Text(scores.name(after)), *(wording.level(each.value, scores.kind) if each else "" for each in known)
            )
        yield table


def _verdict(runs: Mapping[str, Scores]) -> str:
    """What became of the old data, by what is kept and by what it is compared with."""
    said = []
    for name, scores in reversed(list(runs.items())):
        before, after = scores.at(0, 0), scores.at(scores.learned - 1, 0)
        if before is None or after is None:
            return "Nothing was measured on old data: there is no --old, or no test data for it."
        change = after.value - before.value
        size = wording.difference(abs(change), scores.kind).lstrip("+")
        if scores.kind == "error":
            done = f"{'raised' if change > 0 else 'lowered'} the error by {size}" if change else "changed nothing"
        else:
            done = f"{'lost' if change < 0 else 'gained'} {size} points" if change else "lost nothing"
        said.append(f"{name} {done}")
    return f"On old data, {'; '.join(said)}."


def _results(run: Run) -> None:
    asked, named = run.weights[0], run.weights[-1]
    lines = [("weights", f"{asked}")]
    if named != asked:
        lines.append(("", f"{named} (with the names of the classes)" if run.data.classes else f"{named}"))
    lines += [("memory", f"{run.folder / 'memory.checkpoint'}"), ("report", f"{run.folder / 'report.html'}")]
    for name, text in lines:
        console.print(f"{name:7}  {text}", markup=False, soft_wrap=True)


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
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.waiting: TaskID | None = None
        """A bar for work whose length is not known."""

    def __call__(self, moment: Moment) -> None:
        key = (moment.contender, moment.experience)
        if key not in self.tasks:
            if self.waiting is not None:
                self.progress.remove_task(self.waiting)
                self.waiting = None
            title, done = f"{moment.contender}: {moment.experience}", max(0, moment.place - 1)
            self.tasks[key] = self.progress.add_task(title, total=moment.of or None, completed=done, rows=moment.rows)
            if not moment.of:
                self.waiting = self.tasks[key]
        self.progress.update(self.tasks[key], completed=moment.place)


class _Speed(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * task.fields['rows']:,.0f} rows/s", style="cyan")


def scored(config: Config) -> None:
    """The score of a model on data, by class."""
    exam = examine(config)
    _line("weights", ", ".join(str(exam.loaded).splitlines()), width=7)
    result = exam.result
    if config.task == "regression":
        console.print(f"mean squared error {wording.level(result.value, 'error')} on {result.count:,} rows")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("class", "all", overflow="fold")
    table.add_column("accuracy, %", wording.level(result.value), justify="right")
    table.add_column("right", f"{result.correct:,.0f}", justify="right")
    table.add_column("rows", f"{result.count:,}", justify="right")
    for name, (right, count) in result.by_class.items():
        note = " (unknown to the model)" if name in exam.unknown else ""
        table.add_row(Text(name + note), wording.level(right / count), f"{right:,}", f"{count:,}")
    console.print(table)


def tried(config: Config, trials: int, first: int) -> None:
    """Tries settings, shows each trial as it ends, and then all, the best first."""

    def learn(run: Run) -> None:
        with _progress() as show:
            for moment in run.steps(say):
                show(moment)

    try:
        for trial in tune(config, trials, first, learn):
            console.print(
                f"trial {trial.number}: {_values(trial.values)}  {trial.score:.4g}", markup=False, style="dim"
            )
    except KeyboardInterrupt:
        say("Interrupted. What was tried is kept: the same command goes on from there.")
        sys.exit(130)
    out = folder_of(config.out)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    best = json.loads((out / "trials.json").read_text(encoding="utf-8"))["trials"]
    for name in ("score", *best[0]["values"]):
        table.add_column(name, justify="right")
    for trial in best[:10]:
        table.add_row(f"{trial['score']:.4g}", *(_values({"": value})[1:] for value in trial["values"].values()))
    console.print(table)
    console.print(
        f"Scores are of held-out training rows of the first {first} of {len(config.data)} arrivals.\n"
        f"Learn with the best: everlearn learn --config {out / 'tuned.toml'}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())


def list_methods(name: str) -> None:
    """All methods by family, those of one family, or one in detail."""
    name = name.lower().replace("++", "pp")
    families = {cls.card.family for cls in METHODS.values()}
    if name in families:
        shown = {key: cls for key, cls in METHODS.items() if cls.card.family == name}
    else:
        shown = {one_of("method", name, [*METHODS, *families]): METHODS[name]} if name else METHODS
    if name in METHODS:
        module = sys.modules[METHODS[name].__module__]
        console.print(f"{cleandoc(module.__doc__ or '')}\n\n{cleandoc(METHODS[name].__doc__ or '')}", markup=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("idea", ratio=4)
    table.add_column("settings and defaults", ratio=3)
    for family in (family for family in FAMILIES if any(cls.card.family == family for cls in shown.values())):
        table.add_section()
        table.add_row("", Text(family, style="bold").append(_USED.get(family, ""), style="not bold dim"))
        for key, cls in shown.items():
            if cls.card.family == family:
                about = Text(_idea(cls)).append(f"\n{_costs(cls.card)}", style="dim")
                table.add_row(key, about, ", ".join(f"{p.name}={_shown(p.default)}" for p in parameters(cls)))
    console.print(table)
    console.print("Join them with +, as in --method er:memory=2000+ewc:lambda=100; the first wraps all that follow.")


_USED = {
    "tuning": ": strategies of everlearn transfer",
    "adaptation": ": strategies of everlearn transfer for rows without labels",
    "test time": ": in Python, by learner.observe or everlearn.transfer.testtime.adapt",
}
"""What the methods of a family are for, where it is not to keep the old."""


def _costs(card: Card) -> str:
    """What a method computes besides the plain step, what it keeps, and what it needs."""
    return f"Passes: {card.passes}. Keeps: {card.stores}." + (f" Needs: {', '.join(card.needs)}." if card.needs else "")


def _idea(cls: type[Method]) -> str:
    return (sys.modules[cls.__module__].__doc__ or "").splitlines()[0]


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
