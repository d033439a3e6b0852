"""kill -9 at random moments, then resume: the end is the same, bit for bit, as without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from everlearn import checkpoint
from everlearn.models import read_weights

KILLS = int(os.environ.get("EVERLEARN_KILLS", "12"))
METHODS = [
    "naive",
    "er:memory=20,count=8",
    "er:memory=20,count=8,keep=reservoir",
    "der:memory=20,count=8",
    "derpp:memory=20,count=8",
    "ewc:lambda=10",
    "ewc:lambda=10,mode=online,gamma=0.9,fisher=empirical",
    "si",
    "lwf",
    "er:memory=20,count=8+ewc:lambda=10",
    "lwf+derpp:memory=20,count=8+si",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_random_points_ends_bit_identical_to_one_that_never_stopped(method, tmp_path):
    seed = METHODS.index(method)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("torture.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, method, str(KILLS), str(seed)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280 if KILLS == 12 else None,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, runs = map(int, done.stdout.split()[-2:])
    assert killed == KILLS
    whole = tmp_path / "whole"
    for number in range(1, runs + 1):
        resumed = tmp_path / f"killed-{number}"
        states = [_last(folder / "checkpoints") for folder in (whole, resumed)]
        learners = [state["learner"] for state in states]
        assert checkpoint.same(*learners)  # weights, optimizer, memory, generators
        scores = [_timeless(state["scores"]) for state in states]
        assert checkpoint.same(*scores)
        weights = [read_weights(folder / "model.pth") for folder in (whole, resumed)]
        assert checkpoint.same(*weights)
        reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, resumed)]
        assert _matrices(reports[0]) == _matrices(reports[1])


def _last(folder):
    (only,) = folder.iterdir()
    return checkpoint.load(max(only.glob("*.checkpoint")))


def _timeless(scores):
    """Scores without the seconds that they took."""
    notes = {after: {k: v for k, v in note.items() if k != "seconds"} for after, note in scores["notes"].items()}
    return scores | {"notes": notes}


def _matrices(report):
    return {name: run["matrix"] for name, run in report["runs"].items()}
