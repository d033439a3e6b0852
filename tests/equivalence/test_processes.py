"""Two processes that learn together are one learner: with equal weights, those of a single process."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everlearn import checkpoint

SCRIPT = Path(__file__).with_name("pair.py")
_SPEC = importlib.util.spec_from_file_location("pair", SCRIPT)
pair = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pair)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What each of two processes ended with, by name. Processes that test side by side have it made once."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    folder = (tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent) / "pair"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            run(folder)
            (folder / "done").touch()
    return [checkpoint.load(folder / f"{rank}.checkpoint") for rank in range(2)]


def run(folder):
    """Lets two processes learn, and write what they end with into `folder`."""
    paths = [str(SCRIPT.parents[1]), str(SCRIPT.parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # a host's name need not lead back to it
    processes = []
    for rank in range(2):
        command = [sys.executable, "-W", "error", str(SCRIPT), str(rank), str(folder)]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        for process in processes:
            process.wait(timeout=240)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        pytest.fail("\n\n".join((folder / f"{rank}.log").read_text() for rank in range(2)))


@pytest.mark.parametrize(("method", "kind"), pair.cases())
def test_both_processes_end_with_the_same_weights_and_statistics(ends, method, kind):
    first, second = (end[f"{method} {kind}"] for end in ends)
    assert checkpoint.same(first, second)
    assert all(value.isfinite().all() for value in first.values())


def test_methods_that_differ_end_with_weights_that_differ(ends):
    found = [ends[0][f"{method} mlp"] for method in pair.COMPARED]
    assert not any(checkpoint.same(a, b) for place, a in enumerate(found) for b in found[:place])


@pytest.mark.parametrize(("size", "pieces"), pair.SPLITS)
def test_two_processes_learn_what_one_learns_from_the_same_batches(ends, size, pieces):
    torch.testing.assert_close(ends[0][f"split {size} {pieces}"], pair.split(size, pieces), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "size"), pair.ADAPTED)
def test_two_processes_adapt_to_rows_without_labels_as_one_learner(ends, name, size):
    first, second = (end[f"adapted {name} {size}"] for end in ends)
    assert checkpoint.same(first["model"], second["model"])
    assert all(value.isfinite().all() for value in first["model"].values())
    if "er" not in name:  # each process keeps rows of its own share
        assert checkpoint.same(first["method"], second["method"])


@pytest.mark.parametrize("name", ["dann", "mcd", "mdd"])
def test_with_even_shares_of_both_sides_two_processes_adapt_as_one(ends, name):
    torch.testing.assert_close(
        ends[0][f"adapted {name} 8"]["model"], pair.adapted(name, 8)["model"], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["mdd", "wdgrl", "adda"])
def test_adaptation_goes_on_exactly_in_both_processes(ends, name):
    for end in ends:
        assert checkpoint.same(end[f"adapted {name} 8"], end[f"adapted and resumed {name}"])


def test_a_batch_of_one_row_is_learned_though_one_process_has_no_share_of_it(ends):
    assert checkpoint.same(*(end["split 1 row"] for end in ends))
    torch.testing.assert_close(ends[0]["split 1 row"], pair.split(16, 1, rows=33), atol=1e-5, rtol=1e-5)


def test_all_processes_start_from_the_weights_of_the_first(ends):
    assert checkpoint.same(*(end["strangers"] for end in ends))


def test_a_head_that_no_process_uses_is_not_moved_even_by_momentum(ends):
    assert checkpoint.same(ends[0]["old head"]["before"], ends[0]["old head"]["after"])


@pytest.mark.parametrize(("method", "kind"), pair.RESUMED)
def test_resume_is_exact_in_both_processes(ends, method, kind):
    for end in ends:
        assert checkpoint.same(end[f"whole {method} {kind}"], end[f"resumed {method} {kind}"])
    memories = [end[f"whole {method} {kind}"]["method"] for end in ends]
    assert checkpoint.same(*memories) == (method == "ewc"), "each process keeps the old rows of its own share"
