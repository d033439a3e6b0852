"""Published results, rerun: ours beside theirs, in the terminal, as JSON, and on a page."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from everlearn.bench.mnist import download
from everlearn.bench.published import ORDERINGS, ROWS
from everlearn.bench.report import lines_of, page, tables, to_json
from everlearn.bench.row import Row
from everlearn.bench.running import Job, Run, run, workers
from everlearn.bench.statistics import MEANING
from everlearn.bench.verdict import FAIL, Line
from everlearn.checkpoint import write
from everlearn.cli.show import console, say
from everlearn.spec import nearest

ALL = "all"


def list_rows() -> None:
    """All rows by source: what is learned, how often, and about how long that takes."""
    for source, rows in groupby(ROWS.values(), key=lambda row: row.protocol.source):
        table = Table("row", "method", "seeds", "seconds", box=SIMPLE_HEAD, pad_edge=False)
        for column in table.columns[2:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*map(Text, (row.name, row.method, str(row.seeds), f"{row.cost * row.seeds:,.0f}")))
        console.print(source, style="italic", markup=False, soft_wrap=True)
        console.print(table)
    total = sum(row.cost * row.seeds for row in ROWS.values())
    console.print(f"All rows take about {total / 60:,.0f} minutes of one core. NAME may have * in it.")


def rerun(
    names: Sequence[str],
    *,
    seeds: int,
    data: Path | None,
    processes: int,
    out: Path,
    docs: Path | None,
    fetch: bool,
    device: str = "",
) -> None:
    """Runs the rows that `names` choose, shows and writes what came out, and exits with 1 if one of them fails."""
    folder = data or Path(os.environ.get("EVERLEARN_DATA") or "data")
    if fetch:
        download(folder)
    rows = chosen(names)
    if device:
        rows = [moved for row in rows for moved in _moved(row, device, asked=row.name in names)]
    jobs = [job for row in rows for job in _jobs(row, seeds, folder, out, asked=row.name in names)]
    try:
        with _progress(jobs) as said, workers(processes or os.cpu_count() or 1) as pool:
            runs, errors = run(jobs, pool, said)
    except KeyboardInterrupt:
        say("Interrupted. What is done is kept: the same command goes on from there.")
        sys.exit(130)
    lines = lines_of(rows, runs)
    for title, header, cells in tables(lines, ORDERINGS):
        table = Table(*header, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.columns[0].overflow = "fold"
        for row in cells:
            table.add_row(*(Text(cell, "bold red" if cell == FAIL else "") for cell in row))
        console.print(table)
    write(out, (json.dumps(to_json(lines, ORDERINGS, runs), indent=1) + "\n").encode())
    for line in (f"mean ± SD ({MEANING['sd']}); within: {MEANING['tolerance']}.", f"The value of each seed: {out}"):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if docs is not None:
        _quote(docs, lines)
    for name, error in errors.items():
        say(f"{name} ended with an error: {type(error).__name__}: {error}")
    if errors or FAIL in {*(line.verdict for line in lines), *(ordering.verdict(lines) for ordering in ORDERINGS)}:
        sys.exit(1)


def _quote(docs: Path, lines: Sequence[Line]) -> None:
    """Writes the tables of a page anew, or of all pages in a folder that have some."""
    for file in [docs] if docs.is_file() else sorted(docs.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        if docs == file or "<!-- published" in text:
            write(file, page(text, lines, ORDERINGS).encode())


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows of these names, of patterns with *, of a page of the documentation, or "all", in their order."""
    for name in names:
        if name != ALL and not any(_means(name, row) for row in ROWS.values()):
            raise ValueError(f"there is no row {name!r}{nearest(name, ROWS)}; everlearn bench --list shows all")
    return [row for row in ROWS.values() if any(name == ALL or _means(name, row) for name in names)]


def _means(name: str, row: Row) -> bool:
    return name == row.page or fnmatchcase(row.name, name)


def _moved(row: Row, device: str, *, asked: bool) -> list[Row]:
    """The row on that device. One that cannot be there is an error if asked for by name, and else a line."""
    try:
        return [row.on(device)]
    except ValueError as error:
        if asked:
            raise
        say(f"{row.name} is left out: {error}")
        return []


def _jobs(row: Row, seeds: int, folder: Path, out: Path, *, asked: bool) -> list[Job]:
    """A job for each seed. Data that is missing is an error for a row asked for by name, and a line for others."""
    count = (seeds or row.seeds) if row.random else 1
    try:
        return [Job.of(row, seed, folder, out.with_suffix(".runs")) for seed in range(count)]
    except ValueError as error:
        if asked:
            raise
        say(f"{row.name} is left out: {error}")
        return []


@contextmanager
def _progress(jobs: Sequence[Job]) -> Iterator[Callable[[Job, Run | Exception], None]]:
    """A bar of the work, measured by what rows cost; and a line for each run as it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{len(jobs)} runs", total=sum(job.row.cost for job in jobs))

        def said(job: Job, result: Run | Exception) -> None:
            progress.update(task, advance=job.row.cost)
            if isinstance(result, Run):
                scores = ", ".join(f"{name} {value:.2f}" for name, value in result.values.items())
                line = f"{job.row.name} {job.seed}: {scores} ({result.seconds:.0f} s)"
                progress.console.print(line, markup=False, soft_wrap=True)

        yield said
