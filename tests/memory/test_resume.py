"""A memory that stops goes on exactly: from its state alone, or from its state and the files it refers to."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everlearn.checkpoint import load, same, save
from everlearn.memory import Balanced, Memory
from everlearn.memory import disk as disk_module


def feed(memory, draw):
    """One random call; the sequence of calls is a function of `draw`, a random.Random."""
    n = draw.choice([1, 5, 40])
    ids = torch.tensor([draw.randrange(3000) for _ in range(n)])
    width = draw.choice([2, 3])
    kind = draw.random()
    if kind < 0.1:
        return memory.forget(ids)
    if kind < 0.3:
        return memory.sample(draw.choice([1, 7, 30]))
    x = torch.stack([ids, ids * ids], 1).to(torch.int16)
    return memory.add({"x": x, "y": ids % 7, "id": ids, "logits": ids[:, None].float().expand(n, width)})


def through_a_file(state, folder):
    save(state, folder / "checkpoint")
    return load(folder / "checkpoint")


@pytest.fixture(autouse=True)
def segments_are_short(monkeypatch):
    monkeypatch.setattr(disk_module, "_SPARE", 5)
    monkeypatch.setattr(disk_module, "_BLOCK", 256)


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("kind", [Memory, Balanced])
@pytest.mark.parametrize("stop", [0, 1, 7, 30, 61])
def test_a_memory_that_was_stopped_goes_on_bit_for_bit(kind, on_disk, stop, tmp_path):
    def new(name):
        return kind(40, seed=stop, folder=tmp_path / name if on_disk else None)

    draw = random.Random(stop)
    straight, stopped = new("straight"), new("stopped")
    for _ in range(stop):
        before = draw.getstate()
        feed(straight, draw)
        draw.setstate(before)
        feed(stopped, draw)
    state = through_a_file(stopped.state_dict(), tmp_path)
    middle = draw.getstate()
    for _ in range(25):  # what comes after the state is lost in the crash
        feed(stopped, draw)
    draw.setstate(middle)
    resumed = new("stopped")
    resumed.load_state_dict(state)
    for _ in range(80):
        before = draw.getstate()
        first = feed(straight, draw)
        draw.setstate(before)
        assert same(first, feed(resumed, draw))
        assert resumed.ids.equal(straight.ids)
    assert same(resumed.rows(), straight.rows())
    assert same(resumed.state_dict()["kept"], straight.state_dict()["kept"])
    assert resumed.seen == straight.seen


@pytest.mark.parametrize("kind", [Memory, Balanced])
def test_taking_a_state_changes_nothing(kind, tmp_path):
    draw, again = random.Random(1), random.Random(1)
    quiet, asked = kind(30, folder=tmp_path / "a"), kind(30, folder=tmp_path / "b")
    for _ in range(60):
        feed(quiet, draw)
        feed(asked, again)
        asked.state_dict()
    assert same(quiet.rows(), asked.rows())
    assert same(quiet.sample(5), asked.sample(5))


def test_a_state_is_a_copy():
    memory = Memory(5)
    memory.add({"x": torch.zeros(5)})
    state = memory.state_dict()
    memory.add({"x": torch.ones(500)})
    assert state["store"]["columns"]["x"].count_nonzero() == 0
    assert state["seen"] == 5


def test_lists_are_part_of_the_state(tmp_path):
    memory, other = Memory(4), Memory(4)
    memory.add({"text": ["a", "b", "c"], "boxes": [torch.zeros(n, 4) for n in range(3)]})
    other.load_state_dict(through_a_file(memory.state_dict(), tmp_path))
    assert same(other.rows(), memory.rows())


def test_only_what_is_filled_is_saved():
    memory = Memory(100_000)
    memory.add({"x": torch.zeros(3, 100)})
    assert memory.state_dict()["store"]["columns"]["x"].untyped_storage().nbytes() == 3 * 100 * 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Memory(5, 1), "capacity 4.*5"),
        (Memory(4, 2), "seed 1.*2"),
        (Balanced(4, 1), "class 'Memory'.*'Balanced'"),
        (Memory("4MB", 1), "capacity 4.*'4MB'"),
        (Memory(4, 1, folder="nowhere"), "rows 'in RAM'.*'on disk'"),
    ],
)
def test_a_state_loads_only_into_a_memory_made_alike(other, message):
    memory = Memory(4, 1)
    memory.add({"x": torch.zeros(3)})
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(memory.state_dict())
    assert len(other) == 0


def filled(folder, n=40, capacity=10):
    memory = Memory(capacity, folder=folder)
    for ids in torch.arange(n).split(3):
        memory.add({"x": ids[:, None].repeat(1, 4), "y": ids})
    return memory


def files(folder):
    return sorted(folder.glob("*/*.rows"))


def test_each_of_the_last_states_stays_loadable_however_often_the_rows_are_rewritten(tmp_path):
    memory, states = Memory(10, folder=tmp_path), []
    for start in range(0, 600, 6):
        ids = torch.arange(start, start + 6)
        memory.add({"x": ids})
        memory.forget(memory.ids[:1])  # a rewrite with each state
        if start % 30 == 0:
            states.append((memory.state_dict(), memory.rows()))
            for state, rows in states[-3:]:
                older = Memory(10, folder=tmp_path)
                older.load_state_dict(state)
                assert same(older.rows(), rows)
    assert len({state["store"]["generation"] for state, _ in states}) == len(states)
    assert len(files(tmp_path)) <= 5


def test_older_states_stay_loadable_after_a_newer_one_was_loaded(tmp_path):
    memory, states = Memory(10, folder=tmp_path), []
    for start in (0, 20, 40):
        memory.add({"x": torch.arange(start, start + 20)})
        memory.forget(memory.ids[:1])
        states.append((memory.state_dict(), memory.rows()))
    resumed = Memory(10, folder=tmp_path)
    resumed.load_state_dict(states[-1][0])
    resumed.forget(resumed.ids[:1])
    resumed.state_dict()
    for state, rows in states:
        resumed.load_state_dict(state)
        assert same(resumed.rows(), rows)


def test_disk_use_is_bounded_without_any_state(tmp_path):
    memory = Memory(10, folder=tmp_path)
    for start in range(0, 3000, 5):
        ids = torch.arange(start, start + 5)
        memory.add({"x": ids})
        memory.forget(ids)
        memory.forget(memory.ids[:2])
        assert len(files(tmp_path)) <= 2
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 2 * 8 * (2 * 10 + 5)


def test_forgotten_bytes_are_in_no_file_after_a_few_more_states(tmp_path):
    memory = Memory(10, folder=tmp_path)
    secret = b"a secret"
    memory.add({"x": torch.frombuffer(bytearray(secret), dtype=torch.uint8)[None], "id": torch.tensor([7])})
    memory.add({"x": torch.zeros(3, 8, dtype=torch.uint8), "id": torch.arange(3)})
    memory.state_dict()

    def found():
        return any(secret in file.read_bytes() for file in files(tmp_path))

    memory.forget(torch.tensor([7]))
    assert found()
    for _ in range(4):
        memory.state_dict()
    assert not found()
    assert len(memory) == 3


def test_forgotten_rows_leave_no_bytes_in_ram():
    memory = Memory(10)
    memory.add({"x": torch.full((10, 4), 9)})
    memory.forget(torch.arange(3, 6))
    assert (memory._store._columns["x"] == 9).sum() == 7 * 4


def test_a_new_memory_in_the_same_folder_touches_nothing_of_the_old(tmp_path):
    old = filled(tmp_path)
    state, rows = old.state_dict(), old.rows()
    for _ in range(3):
        filled(tmp_path, n=300).state_dict()
    again = Memory(10, folder=tmp_path)
    again.load_state_dict(state)
    assert same(again.rows(), rows)


def test_a_missing_file_is_named(tmp_path):
    state = filled(tmp_path).state_dict()
    gone = files(tmp_path)[0]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        Memory(10, folder=tmp_path).load_state_dict(state)


def test_a_shorter_file_is_named(tmp_path):
    state = filled(tmp_path).state_dict()
    short = files(tmp_path)[0]
    os.truncate(short, 100)
    with pytest.raises(ValueError, match=rf"{short.name} has 100 bytes.*refers to"):
        Memory(10, folder=tmp_path).load_state_dict(state)


def test_a_changed_byte_is_found(tmp_path):
    state = filled(tmp_path).state_dict()
    path = files(tmp_path)[-1]
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} are not those"):
        Memory(10, folder=tmp_path).load_state_dict(state)


def test_a_state_that_cannot_be_loaded_changes_nothing(tmp_path):
    state = filled(tmp_path / "a").state_dict()
    memory = filled(tmp_path / "b", n=5)
    rows = memory.rows()
    for path in files(tmp_path / "a"):
        path.unlink()
    state["store"]["run"] = 8
    with pytest.raises(FileNotFoundError):
        memory.load_state_dict(state)
    assert same(memory.rows(), rows)
    assert memory.seen == 5


def test_files_are_for_their_owner_only(tmp_path):
    filled(tmp_path)
    assert all(file.stat().st_mode & 0o077 == 0 for file in files(tmp_path))


CRASH = """
import sys, torch
from everlearn.checkpoint import load, save
from everlearn.memory import Memory
folder = sys.argv[1]
memory = Memory(50, folder=folder + "/rows")
if len(sys.argv) > 2:
    memory.load_state_dict(load(folder + "/checkpoint"))
while True:
    ids = torch.arange(memory.seen, memory.seen + 20)
    memory.add({"x": ids[:, None].repeat(1, 300), "y": ids})
    if memory.seen % 200 == 0:
        save(memory.state_dict(), folder + "/checkpoint")
        print(memory.seen, flush=True)
"""


def test_after_kill_9_the_last_checkpoint_continues_like_a_memory_that_never_stopped(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for arguments in ([], ["resume"]):
        command = [sys.executable, "-c", CRASH, str(tmp_path), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            for _ in range(4):
                process.stdout.readline()
            process.kill()
    resumed = Memory(50, folder=tmp_path / "rows")
    resumed.load_state_dict(load(tmp_path / "checkpoint"))
    assert resumed.seen >= 1400
    straight = Memory(50)
    for ids in torch.arange(resumed.seen).split(20):
        straight.add({"x": ids[:, None].repeat(1, 300), "y": ids})
    assert same(resumed.rows(), straight.rows())
