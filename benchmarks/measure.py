"""Clocks: two things in turn, several times, and what their ratio was."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import cpu_count, getloadavg
from pathlib import Path
from statistics import median

import torch

import everlearn

Action = Callable[[], object]


@dataclass(frozen=True)
class Line:
    """One measured score, beside its goal if it has one."""

    family: str
    name: str
    scores: tuple[float, ...]
    """One for each run."""
    unit: str
    goal: float | None = None
    more_is_better: bool = True
    detail: str = ""

    @property
    def score(self) -> float:
        return median(self.scores)

    @property
    def passed(self) -> bool | None:
        if self.goal is None:
            return None
        return self.score >= self.goal if self.more_is_better else self.score <= self.goal


def seconds(action: Action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(first: Action, second: Action, runs: int) -> tuple[list[float], list[float]]:
    """The seconds that each took in each run: A B, B A, A B, ... after one round that is not counted.

    What disturbs a shared machine for longer than a run then disturbs both; compare the two run by run.
    """
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs):
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            times[which].append(seconds((first, second)[which]))
    return times


def ratios(above: Iterable[float], below: Iterable[float]) -> tuple[float, ...]:
    """Run by run."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def times(action: Action, count: int) -> Action:
    """The action, `count` times: short ones need that to be longer than the clock's grain."""

    def repeated() -> None:
        for _ in range(count):
            action()

    return repeated


def per_second(count: float, took: Sequence[float]) -> str:
    """The median rate, as a person reads it."""
    return f"{count / median(took):,.0f}"


def resident() -> int | None:
    """Bytes of this process that are in RAM; None where the system does not tell."""
    about = Path("/proc/self/statm")
    return int(about.read_text().split()[1]) * 4096 if about.exists() else None


def machine(threads: int) -> dict[str, object]:
    """What was measured on, and how busy it was when that began."""
    return {
        "machine": _processor(),
        "system": platform.platform(),
        "cpus": cpu_count(),
        "threads": threads,
        "load": [round(load, 2) for load in getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "everlearn": everlearn.__version__,
    }


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
