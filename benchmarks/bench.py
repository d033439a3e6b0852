"""How fast everlearn is beside what a good engineer would write by hand: a table, and results/bench.json.

    python benchmarks/bench.py [--only mlp cnn/er fisher] [--runs 5] [--threads 1] [--quick]

Each family runs in a process of its own. There, both sides take turns, and are compared run by run; a score is
the median over the runs, beside the smallest and the largest. The last line says how many goals were met.
"""

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import hedge
import online
import parts
import torch
import training
from measure import Line, machine
from rich.console import Console
from rich.table import Table

FAMILIES = (*training.WORKS, "fisher", "closed-form", "memory", "augmentation", "logme", "online", "hedge", "start")
CHOICES = (*FAMILIES, *(f"{work}/{method}" for work in training.WORKS for method in training.goals(work)))
RESULTS = Path(__file__).parent / "results" / "bench.json"


def measure(family: str, only: list[str], runs: int, threads: int, *, quick: bool) -> list[Line]:
    """All lines of one family."""
    torch.set_num_threads(threads)
    if family in training.WORKS:
        every = list(training.goals(family))
        named = [method for method in every if f"{family}/{method}" in only]
        return list(training.train(family, named or every, runs, quick=quick))
    if family == "start":
        return list(parts.start())
    measured = {
        "fisher": parts.fisher_cost,
        "closed-form": parts.closed_form,
        "memory": parts.memory,
        "augmentation": parts.augmentation,
        "logme": parts.transferability,
        "online": online.stream,
        "hedge": lambda runs, quick: hedge.lines(steps=50 if quick else 200, runs=runs),
    }
    return list(measured[family](runs, quick=quick))


def table(lines: Iterable[Line], about: dict[str, object]) -> Table:
    """The lines as a person reads them."""
    drawn = Table(title="\n".join(_about(about)), title_justify="left", title_style="")
    for heading in ("family", "what", "score", "smallest - largest", "", "goal", "", "in absolute terms, today"):
        drawn.add_column(heading, justify="right" if heading in {"score", "smallest - largest", "goal"} else "left")
    family = ""
    for line in lines:
        if line.family != family:
            drawn.add_section()
        goal = "" if line.goal is None else f"{'≥' if line.more_is_better else '≤'} {_number(line.goal)}"
        verdict = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[line.passed]
        spread = f"{_number(min(line.scores))} - {_number(max(line.scores))}"
        first = line.family if line.family != family else ""
        drawn.add_row(first, line.name, _number(line.score), spread, line.unit, goal, verdict, line.detail)
        family = line.family
    return drawn


def _about(about: dict[str, object]) -> list[str]:
    quick = ", quick" if about["quick"] else ""
    versions = f"torch {about['torch']}, Python {about['python']}, everlearn {about['everlearn']}"
    return [
        f"{about['machine']}, {about['cpus']} CPUs, {about['threads']} thread(s), load {about['load']}",
        f"{versions}, medians of {about['runs']} runs{quick}",
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--only", nargs="+", choices=CHOICES, default=[], metavar="FAMILY", help=", ".join(CHOICES))
    asked.add_argument("--runs", type=int, default=5, help="runs of each measurement (default 5)")
    asked.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    asked.add_argument("--quick", action="store_true", help="fewer rows: to see that it works, not to report")
    given = asked.parse_args()
    families = [name for name in FAMILIES if not given.only or any(one.split("/")[0] == name for one in given.only)]
    about = machine(given.threads) | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "only": given.only,
        "runs": given.runs,
        "quick": given.quick,
    }
    console, lines = Console(), []
    if not console.is_terminal:
        console.width = 150  # a log has no edge to wrap at
    for family in families:
        console.print(f"measuring {family} ...", style="dim")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found = process.submit(measure, family, given.only, given.runs, given.threads, quick=given.quick).result()
        lines += found
        console.print(table(found, about))
    RESULTS.parent.mkdir(exist_ok=True)
    scores = [asdict(line) | {"score": line.score, "passed": line.passed} for line in lines]
    RESULTS.write_text(json.dumps({"about": about, "lines": scores}, indent=1) + "\n")
    if len(families) > 1:
        console.print(table(lines, about))
    aimed = [line.passed for line in lines if line.passed is not None]
    console.print(f"{sum(aimed)} of {len(aimed)} goals met; written to {RESULTS}")


if __name__ == "__main__":
    main()
