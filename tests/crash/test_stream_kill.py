"""kill -9 in the middle of a stream whose messages come twice and out of order: none is lost, none is learned twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from crash.sending import ROWS, SOURCES, messages

from everlearn import checkpoint

FEW = 2
KILLS = int(os.environ.get("EVERLEARN_KILLS", FEW))


@pytest.mark.parametrize("source", SOURCES)
def test_a_stream_killed_at_random_points_ends_bit_identical_to_one_that_never_stopped(source, tmp_path):
    (tmp_path / "source").mkdir()
    with SOURCES[source](tmp_path / "source") as address:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("stream_torture.py"),
             *map(str, (tmp_path, address, len(messages()), KILLS, 1))],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=120 if KILLS == FEW else None, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, runs = map(int, done.stdout.split()[-2:])
    assert killed == KILLS
    compared(tmp_path, runs)


def compared(folder, runs):
    """Each service that was killed ended as the one that was not: state, weights, and lines in files."""
    whole = ended(folder / "whole")
    tally = whole["service"]["tally"]
    assert (tally["rows"], whole["learning"]["rows"], tally["duplicates"] > 12) == (ROWS, ROWS, True)
    assert whole["service"]["ledger"]["counts"]["double"] > 12
    for number in range(1, runs + 1):
        out = folder / f"killed-{number}"
        state = ended(out)
        assert checkpoint.same(state["learning"], whole["learning"])  # weights, optimizer, memory, generators, drift
        for part in whole["service"]:
            assert part == "clock" or checkpoint.same(state["service"][part], whole["service"][part])
        answered = Counter(line["id"] for line in lines(out / "predictions.jsonl"))
        assert answered == Counter(f"r{row}" for row in range(ROWS))  # each once
        for name in ("predictions.jsonl", "events.jsonl"):
            assert lines(out / name) == lines(folder / "whole" / name)


def ended(folder):
    return checkpoint.load(max((folder / "checkpoints").glob("*.checkpoint")))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
