"""Runs rows, each seed in a process of its own; what is done is kept, and not done again."""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everlearn.bench.code import code, machine, versions
from everlearn.bench.row import Row
from everlearn.checkpoint import write
from everlearn.methods import METHODS
from everlearn.spec import parse_chain


@dataclass(frozen=True)
class Run:
    """One row with one seed: its scores by name, how long it took, and what it was made with."""

    row: str
    seed: int
    values: Mapping[str, float]
    seconds: float
    fingerprint: Mapping[str, Any]
    machine: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A run to be made, and the file that it will be in."""

    row: Row
    seed: int
    folder: Path
    fingerprint: Mapping[str, Any]
    file: Path

    @classmethod
    def of(cls, row: Row, seed: int, folder: Path, kept: Path) -> "Job":
        """The job, its file named by a hash of all that decides about the values. Raises where data is missing."""
        modules = [METHODS[spec.name].__module__ for spec in parse_chain(row.method)] if row.method else []
        fingerprint = {
            "config": row.config(),
            "seed": seed,
            "code": code(type(row.protocol).__module__, *modules),
            "data": row.protocol.data(folder),
            "versions": versions(),
        }
        text = json.dumps(fingerprint, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(row, seed, folder, json.loads(text), kept / f"{row.name}-{seed}-{digest}.json")

    def kept(self) -> Run | None:
        """The run, if it was made already, with the same of everything."""
        return Run(**json.loads(self.file.read_text(encoding="utf-8"))) if self.file.is_file() else None


def measure(job: Job) -> Run:
    """Makes the run, and keeps it: its file is there whole, or not at all."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    values = job.row.protocol.measure(job.row.method, job.seed, job.folder)
    run = Run(job.row.name, job.seed, values, round(time.perf_counter() - started, 1), job.fingerprint, machine())
    write(job.file, json.dumps(vars(run), indent=1).encode())
    return run


@contextmanager
def workers(processes: int) -> Iterator[Executor]:
    """That many processes. They are spawned, since torch's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_with_parent() -> None:
    """Ends this process when the one that started it is gone, killed for instance: else it would work on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a process that was started by another can leave with it")

    def leave() -> None:
        parent.join()
        os._exit(1)  # a file of a run is whole or not there, whenever this comes

    threading.Thread(target=leave, daemon=True).start()


def run(
    jobs: Sequence[Job], pool: Executor, said: Callable[[Job, Run | Exception], None] = lambda _job, _result: None
) -> tuple[dict[str, list[Run]], dict[str, Exception]]:
    """The runs of all jobs by row, and for rows that failed their first error; `said` hears of each as it is done.

    What is kept is not run again; of the others the longest begin first. One that fails stops no other.
    """
    runs: dict[str, list[Run]] = {job.row.name: [] for job in jobs}
    errors: dict[str, Exception] = {}
    waiting: list[Job] = []
    for job in jobs:
        done = job.kept()
        if done is None:
            waiting.append(job)
        else:
            runs[job.row.name].append(done)
            said(job, done)
    waiting.sort(key=lambda job: job.row.cost, reverse=True)
    futures: dict[Future[Run], Job] = {pool.submit(measure, job): job for job in waiting}
    for future in as_completed(futures):
        job, error = futures[future], future.exception()
        if error is None:
            runs[job.row.name].append(future.result())
            said(job, future.result())
        elif isinstance(error, Exception):
            errors.setdefault(job.row.name, error)
            said(job, error)
        else:
            raise error
    for made in runs.values():
        made.sort(key=lambda each: each.seed)
    return runs, errors
