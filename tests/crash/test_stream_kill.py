"""kill -9 in the middle of a stream whose messages come twice and out of order: none is lost, none is learned twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from servers import redis_server

from everlearn import checkpoint

KILLS = int(os.environ.get("EVERLEARN_KILLS", "4"))
ROWS = 240


def test_a_stream_killed_at_random_points_ends_bit_identical_to_one_that_never_stopped(tmp_path):
    killed, runs = tortured(tmp_path, "file")
    assert killed == KILLS
    compared(tmp_path, runs)


def test_a_stream_in_redis_whose_reader_is_killed_is_read_to_the_same_end(redis, tmp_path):
    killed, runs = tortured(tmp_path, redis)
    assert killed == KILLS
    compared(tmp_path, runs)


@pytest.fixture
def redis(tmp_path):
    """The address of a stream on a server of our own."""
    pytest.importorskip("redis")
    (tmp_path / "redis").mkdir()
    server = redis_server(tmp_path / "redis")
    yield f"redis://127.0.0.1:{server.port}/rows"
    server.kill()


def tortured(folder, source):
    """How often a service was killed, and how many services that took."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("stream_torture.py"), folder, source, str(KILLS), "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120 if KILLS == 4 else None,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split()[-2:])


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
