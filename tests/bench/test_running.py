"""Each run is kept as it is done, under a hash of all that decides about it; what is kept is not run again."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench.tiny import measured, row

from everlearn.bench import running
from everlearn.bench.running import Job, run, workers


@pytest.fixture(autouse=True)
def threads():
    """A run takes one thread: of this process, where it is a thread itself."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def jobs(row, folder, seeds=None):
    return [Job.of(row, seed, folder, folder / "runs") for seed in range(seeds or row.seeds)]


def done(jobs, said=lambda _job, _result: None):
    with ThreadPoolExecutor(1) as pool:
        return run(jobs, pool, said)


def test_all_seeds_are_run_and_kept(tmp_path):
    heard = []
    runs, errors = done(jobs(row(), tmp_path), lambda job, result: heard.append((job.seed, result.values)))
    assert not errors
    assert [(each.seed, each.values) for each in runs["made"]] == [(s, {"accuracy": 90.0 + s}) for s in range(3)]
    assert sorted(heard) == [(s, {"accuracy": 90.0 + s}) for s in range(3)]
    files = list((tmp_path / "runs").iterdir())
    assert len(files) == 3
    kept = json.loads(min(files).read_text())
    assert kept["values"] == {"accuracy": 90.0}
    assert kept["seconds"] >= 0
    assert set(kept["fingerprint"]) == {"config", "seed", "code", "data", "versions"}
    assert {"torch", "numpy", "everlearn", "python"} <= set(kept["fingerprint"]["versions"])
    assert {"platform", "processor", "cores"} == set(kept["machine"])


def test_what_is_kept_is_not_run_again(tmp_path):
    first, _ = done(jobs(row(), tmp_path, seeds=2))
    second, _ = done(jobs(row(), tmp_path, seeds=3))
    assert measured(tmp_path) == [0, 1, 2]
    assert second["made"][:2] == first["made"]


def test_an_interrupted_bench_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        done(jobs(row(interrupted=1), tmp_path))
    before = measured(tmp_path)
    assert 1 in before
    healthy = [replace(job, row=row()) for job in jobs(row(interrupted=1), tmp_path)]  # the same runs, not interrupted
    runs, _ = done(healthy)
    assert [each.seed for each in runs["made"]] == [0, 1, 2]
    kept_then = [seed for seed in before if seed != 1]
    assert sorted(measured(tmp_path)[len(before) :]) == sorted({0, 1, 2} - {*kept_then})


def test_a_run_that_fails_stops_no_other_and_is_named(tmp_path):
    good = row("good")
    runs, errors = done([*jobs(row(broken=(1,)), tmp_path), *jobs(good, tmp_path)])
    assert [each.seed for each in runs["made"]] == [0, 2]
    assert [each.seed for each in runs["good"]] == [0, 1, 2]
    assert str(errors["made"]) == "seed 1 went wrong"


def test_the_longest_runs_begin_first(tmp_path):
    cheap, dear = row("cheap", seeds=1), replace(row("dear", seeds=1), cost=100.0)
    order = []
    done([*jobs(cheap, tmp_path), *jobs(dear, tmp_path)], lambda job, _result: order.append(job.row.name))
    assert sorted(order) == ["cheap", "dear"]
    (first, _) = sorted((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert first.name.startswith("dear")


def test_each_thing_that_decides_about_a_value_makes_another_run(tmp_path, monkeypatch):
    plain = row()

    def file(row=plain, seed=0):
        return Job.of(row, seed, tmp_path, tmp_path).file

    assert file() == file()
    assert file() == file(replace(plain, published={}, cost=1.0, note="words"))  # claims are no part of it
    others = [file(seed=1), file(replace(plain, method="si")), file(row(score=91.0))]
    with monkeypatch.context() as patch:
        patch.setattr(running, "code", lambda *_: "other code")
        others.append(file())
    with monkeypatch.context() as patch:
        patch.setattr(running, "versions", lambda: {"torch": "9"})
        others.append(file())
    with monkeypatch.context() as patch:
        patch.setattr(type(plain.protocol), "data", lambda *_: "other data")
        others.append(file())
    assert len({file(), *others}) == 7


def test_missing_data_is_an_error_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        Job.of(row(), 0, tmp_path / "nowhere", tmp_path)


STUCK = """
import os, sys, time
from everlearn.bench.running import workers

if __name__ == "__main__":
    with workers(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_workers_do_not_outlive_a_bench_that_is_killed(tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    here = os.environ | {"PYTHONPATH": str(Path(running.__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=here) as bench:
        worker = int(bench.stdout.readline())
        os.kill(worker, 0)
        bench.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "zombie" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_are_spawned_and_give_the_same(tmp_path):
    with workers(1) as pool:
        runs, errors = run(jobs(row(), tmp_path, seeds=1), pool)
    assert not errors
    assert runs["made"][0].values == {"accuracy": 90.0}
