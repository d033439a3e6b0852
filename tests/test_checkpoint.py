"""Checkpoints: what comes out is what went in, or an error; never half of it, never something else."""

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.checkpoint import CheckpointError, Checkpoints, NewerError, load, same, save, write
from everlearn.stopping import terminating


def channels_last(*shape):
    return torch.randn(*shape).to(memory_format=torch.channels_last)


VALUES = {
    "none": None,
    "flags": [True, False],
    "integers": [0, -1, 2**80],
    "floats": [0.1, -0.0, 1e-320, float("inf"), float("-inf"), float("nan"), 3.0],
    "texts": ["", "a", "täßk\n\0", "\u2028", "🦊"],
    "nested": {"a": [1, (2, [3, ()])], "b": {"c": {}}, "": ({"x": (None,)},)},
    "integer keys": {0: "a", -3: "b", "0": "c", 2**40: {1: 2}},
    "0-dim": torch.tensor(3.5),
    "empty": [torch.zeros(0), torch.zeros(3, 0, 2), torch.zeros(0, dtype=torch.int64)],
    "NaN tensor": torch.tensor([float("nan"), float("inf"), -0.0]),
    "bool": torch.tensor([True, False]),
    "transposed": torch.randn(3, 4).T,
    "permuted": torch.randn(2, 3, 4, 5).permute(2, 0, 3, 1),
    "slice": torch.randn(10)[2:5],
    "every second": torch.randn(10)[::2],
    "expanded": torch.randn(3, 1).expand(3, 4),
    "channels_last": channels_last(2, 3, 4, 5),
    "parameter": nn.Parameter(torch.randn(3)),
    "conjugate": torch.randn(2, dtype=torch.complex64).conj(),
} | {
    f"{dtype}": torch.tensor([0, 1, 2]).to(dtype)
    for dtype in (
        torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16,
        torch.int32, torch.int64, torch.uint16, torch.complex64,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_what_comes_out_is_what_went_in(name, tmp_path):
    save({"value": VALUES[name]}, tmp_path / "c")
    loaded = load(tmp_path / "c")["value"]
    assert same(loaded, VALUES[name])
    assert _kinds(loaded) == _kinds(VALUES[name])


def _kinds(value):
    if isinstance(value, dict):
        return {key: _kinds(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value), *map(_kinds, value)]
    return torch.Tensor if isinstance(value, torch.Tensor) else type(value)


@pytest.mark.parametrize(
    "value",
    [
        channels_last(2, 3, 4, 4),
        channels_last(2, 1, 4, 4),
        channels_last(2, 3, 1, 1),
        channels_last(1, 3, 4, 4),
        torch.randn(2, 3, 4, 4),
        torch.randn(2, 1, 4, 4),
        torch.randn(2, 3, 1, 1),
        torch.randn(3, 4).T,
        torch.randn(1, 4).T,
    ],
)
def test_the_order_of_dimensions_in_memory_comes_back(value, tmp_path):
    save({"value": value}, tmp_path / "c")
    loaded = load(tmp_path / "c")["value"]
    assert loaded.stride() == value.stride()


def test_values_that_share_memory_are_saved_one_by_one(tmp_path):
    weight = torch.randn(4, 3)
    save({"tied": weight, "too": weight, "part": weight[1:3]}, tmp_path / "c")
    loaded = load(tmp_path / "c")
    assert same(loaded, {"tied": weight, "too": weight, "part": weight[1:3]})
    loaded["tied"].zero_()
    assert same(loaded["too"], weight)


def test_a_loaded_tensor_belongs_to_the_one_who_loaded_it(tmp_path):
    save({"a": torch.arange(3)}, tmp_path / "c")
    first, second = load(tmp_path / "c"), load(tmp_path / "c")
    first["a"] += 1
    assert second["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": {"b": [1, {2}]}}, r"state\.a\.b\[1\] is a set"),
        ({"a": (1, b"x")}, r"state\.a\[1\] is a bytes"),
        ({"f": len}, r"state\.f is a builtin_function_or_method"),
        ({"model": nn.Linear(1, 1)}, r"state\.model is a Linear"),
        ({"a": {None: 1}}, r"state\.a has the key None; keys are strings or whole numbers"),
        ({"a": {True: 1}}, r"state\.a has the key True"),
        ({"a": {1.5: 1}}, r"state\.a has the key 1\.5"),
        ({"a": {(1, 2): 1}}, r"state\.a has the key \(1, 2\)"),
        ({"a": 1j}, r"state\.a is a complex"),
        ({"a": [torch.eye(2).to_sparse()]}, r"state\.a\[0\] is a tensor of torch\.float32, torch\.sparse_coo"),
        ({"a": torch.empty(2, device="meta")}, r"state\.a is a tensor of .* on meta"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, r"state\.a is a tensor of torch\.complex128"),
    ],
)
def test_a_value_that_cannot_be_held_is_an_error_that_names_its_place(state, place, tmp_path):
    save({"old": 1}, tmp_path / "c")
    with pytest.raises(CheckpointError, match=place):
        save(state, tmp_path / "c")
    assert load(tmp_path / "c") == {"old": 1}
    assert files(tmp_path) == ["c"]


STATE = {"weights": torch.randn(20, 10), "place": {"epoch": 3, 7: (0.5, None, "text")}, "moments": [torch.ones(5), 2.5]}


def test_a_truncated_checkpoint_is_an_error_wherever_it_ends(tmp_path):
    save(STATE, tmp_path / "c")
    content = (tmp_path / "c").read_bytes()
    ends = {len(content) * k // 20 for k in range(20)} | {len(content) - 1, 1, 30, 85}
    for end in sorted(ends):
        (tmp_path / "t").write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"not a checkpoint|damaged"):
            load(tmp_path / "t")
    (tmp_path / "t").write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match=r"damaged"):
        load(tmp_path / "t")


def test_a_flipped_bit_is_an_error_wherever_it_is(tmp_path):
    save(STATE, tmp_path / "c")
    content = (tmp_path / "c").read_bytes()
    dice = random.Random(0)
    head = content.index(b"\n") + 1
    places = [8 * byte + bit for byte in range(head + 8) for bit in range(8)]
    places += [dice.randrange(8 * len(content)) for _ in range(200)]
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        (tmp_path / "t").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"not a checkpoint|damaged"):
            load(tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"\n", b"PK\x03\x04zip", b'{"a": 1}', b"\x80\x02}q\x00.", os.urandom(500)])
def test_a_foreign_file_is_an_error(content, tmp_path):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of everlearn"):
        load(tmp_path / "f")


def test_a_file_of_torch_is_not_unpickled(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of everlearn"):
        load(tmp_path / "f.pt")


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def newer(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_VERSION", 7)
        save({"a": 1}, path)


def test_a_checkpoint_of_a_newer_version_says_so(tmp_path, monkeypatch):
    newer(tmp_path / "c", monkeypatch)
    with pytest.raises(NewerError, match=r"has the format 7, but this version reads up to 1; update"):
        load(tmp_path / "c")


def test_the_file_is_plain_json_and_safetensors(tmp_path):
    from safetensors.torch import load as tensors

    save({"a": torch.arange(3), "b": 0.5}, tmp_path / "c")
    head, _, body = (tmp_path / "c").read_bytes().partition(b"\n")
    size = int.from_bytes(body[:8], "little")
    assert head.startswith(b"everlearn-checkpoint 1 ")
    assert json.loads(body[8 : 8 + size]) == {"dict": [["a", {"tensor": "0", "stride": None}], ["b", {"float": 0.5}]]}
    assert tensors(body[8 + size :])["0"].tolist() == [0, 1, 2]


class TestCheckpoints:
    def test_the_last_three_are_kept_and_the_newest_is_loaded(self, tmp_path):
        keeper = Checkpoints(tmp_path / "run")
        for number in (1, 2, 9, 10, 100):
            keeper.save({"number": number}, number)
        assert [int(path.stem) for path in keeper.paths()] == [9, 10, 100]
        assert Checkpoints(tmp_path / "run").load() == {"number": 100}

    def test_a_damaged_one_is_reported_and_set_aside_for_the_one_before(self, tmp_path):
        keeper = Checkpoints(tmp_path)
        paths = [keeper.save({"number": number}, number) for number in (1, 2, 3)]
        for path in paths[1:]:
            path.write_bytes(path.read_bytes()[:-3])
        said = []
        assert keeper.load(said.append) == {"number": 1}
        assert len(said) == 2
        assert all("damaged" in line and "going back to the one before" in line for line in said)
        assert [path.name for path in keeper.paths()] == [paths[0].name]
        assert len(list(tmp_path.glob("*.damaged"))) == 2

    def test_if_none_is_whole_nothing_starts_from_scratch(self, tmp_path):
        keeper = Checkpoints(tmp_path)
        keeper.save({"number": 1}, 1).write_bytes(b"everlearn")
        for _ in range(2):  # the second time there are only files set aside
            with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* is whole"):
                keeper.load(lambda line: None)

    def test_a_folder_that_never_had_one_gives_none(self, tmp_path):
        assert Checkpoints(tmp_path / "new").load() is None

    def test_a_newer_one_is_neither_set_aside_nor_passed_over(self, tmp_path, monkeypatch):
        keeper = Checkpoints(tmp_path)
        keeper.save({"number": 1}, 1)
        newer(tmp_path / "000000000002.checkpoint", monkeypatch)
        with pytest.raises(NewerError):
            keeper.load()
        assert len(keeper.paths()) == 2

    def test_it_is_due_after_so_many_steps_since_the_last(self, tmp_path):
        keeper = Checkpoints(tmp_path, every_steps=3)
        assert [keeper.due() for _ in range(3)] == [False, False, True]
        keeper.save({}, 3)
        assert [keeper.due() for _ in range(3)] == [False, False, True]

    def test_it_is_due_after_so_many_seconds_since_the_last(self, tmp_path, monkeypatch):
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        keeper = Checkpoints(tmp_path, every_seconds=60)
        assert not keeper.due()
        clock[0] += 60
        assert keeper.due()
        keeper.save({}, 1)
        assert not keeper.due()

    def test_without_an_interval_it_is_never_due(self, tmp_path):
        assert not any(Checkpoints(tmp_path).due() for _ in range(100))


def files(folder):
    return [path.name for path in folder.iterdir()]


def failing(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (os, "replace"), (Path, "open")])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_the_old_file_and_no_half_of_the_new(owner, name, there, tmp_path, monkeypatch):
    if there:
        write(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(OSError, match=r"No space left"):
            write(tmp_path / "file", b"new", b" and long")
    assert files(tmp_path) == (["file"] if there else [])
    assert not there or (tmp_path / "file").read_bytes() == b"old"
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_file(tmp_path):
    """A real write error: the process may not make files larger than this."""
    program = f"""
import resource, signal, sys
from everlearn.checkpoint import write
write({str(tmp_path / "file")!r}, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write({str(tmp_path / "file")!r}, b"x" * 5000)
except OSError:
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 3
    assert files(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_file_and_its_name_are_made_durable_before_write_returns(tmp_path, monkeypatch):
    calls = []
    for owner, name in ((os, "fsync"), (os, "replace")):
        plain = vars(owner)[name]
        monkeypatch.setattr(owner, name, lambda *a, plain=plain, name=name: (calls.append(name), plain(*a))[1])
    write(tmp_path / "deep" / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_the_first_sigterm_is_an_answer_and_the_handler_is_as_before_afterwards():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with terminating() as asked:
            assert not asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked()
            assert seen == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == ["theirs"]
            assert asked()
        assert signal.getsignal(signal.SIGTERM) is ours
        with terminating(signal.SIGUSR1, signal.SIGTERM) as asked:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked()
        assert signal.getsignal(signal.SIGTERM) is ours
        assert seen == ["theirs"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_was_asked_for_twice_over_is_heard_by_each_once():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with terminating(signal.SIGUSR1) as outer:
            with terminating(signal.SIGUSR1) as inner:
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGUSR1)
            assert inner()
            assert outer()
            os.kill(os.getpid(), signal.SIGUSR1)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), terminating():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


class TestSame:
    def test_equal_is_equal_bit_for_bit(self):
        nan = torch.tensor([math.nan])
        assert same({"a": [nan, (1, "x", math.nan)]}, {"a": [nan.clone(), (1, "x", math.nan)]})
        assert same(channels_last(1, 2, 2, 2).fill_(1), torch.ones(1, 2, 2, 2))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (torch.tensor(0.0), torch.tensor(-0.0)),
            (torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64)),
            (torch.zeros(2), torch.zeros(2, 1)),
            (torch.zeros(0), torch.zeros(0, 2)),
            (1, 1.0),
            (1, True),
            ({"a": 1}, {"a": 1, "b": 2}),
            ({"a": 1}, {"b": 1}),
            ([1], [1, 2]),
            (None, 0),
            ([1], 1),
        ],
    )
    def test_other_is_other(self, first, second):
        assert not same(first, second)
