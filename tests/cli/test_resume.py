"""Interruptions: whatever stops a run, nothing is lost, and the end is the same, bit for bit."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workspace.inputs import contents, words

import everlearn as package
from everlearn import checkpoint
from everlearn.workspace.config import make
from everlearn.workspace.opening import begin
from everlearn.workspace.run import Run

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(package.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


def demanding(shop, out):
    """A run of two arrivals and two contenders, with all that has a state: 2 x 40 steps."""
    return {
        "model": shop.model(),
        "weights": shop / "deployed.pth",
        "data": [shop / "first.npz", shop / "second.npz"],
        "old": shop / "old.npz",
        "test": [shop / "test-all.npz"],
        "method": "er:memory=30,count=16+ewc:rows=20+lwf",
        "compare": True,
        "epochs": 4,
        "batch_size": 8,
        "optimizer": "adam:lr=0.003",
        "scheduler": "cosine",
        "checkpoint_steps": 7,
        "threads": 1,
        "out": out,
    }


def config_of(settings):
    """The same for Python: paths as text."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return make(plain | {name: [str(item) for item in settings[name]] for name in ("data", "test")})


@pytest.fixture
def long(shop, tmp_path):
    return demanding(shop, tmp_path / "run")


@pytest.fixture
def asked(long):
    return lambda **changes: config_of(long | changes)


@pytest.fixture(scope="session")
def whole(shop, tmp_path_factory):
    """The folder of the same run, never interrupted."""
    run = begin(config_of(demanding(shop, tmp_path_factory.mktemp("whole") / "run")))
    for _ in run.steps():
        pass
    return run.folder


def same(one, other):
    """Two runs ended alike: weights, memory, scores."""
    assert checkpoint.same(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"))
    memories = [checkpoint.load(folder / "memory.checkpoint")["state"] for folder in (one, other)]
    assert checkpoint.same(*memories)
    runs = [json.loads((folder / "report.json").read_text())["runs"] for folder in (one, other)]
    for name, run in runs[0].items():
        assert run["matrix"] == runs[1][name]["matrix"]
        assert run["scores"]["scores"] == runs[1][name]["scores"]["scores"]


def interrupted(config, count):
    """A run that is given up after so many steps, without a word: as far as its last checkpoint."""
    run = begin(config)
    steps = run.steps()
    while count:
        count -= next(steps).of > 0  # otherwise it looks at the past
    steps.close()
    return run.folder


@pytest.mark.parametrize("count", [1, 7, 20, 21, 40, 41, 79, 80])
def test_a_run_that_broke_off_is_resumed_to_the_same_end(everlearn, asked, whole, tmp_path, count):
    folder = interrupted(asked(), count)
    said = everlearn("resume", folder)
    assert (said.code, said.err) == (0, "")
    same(folder, whole)


def test_a_run_is_resumed_by_its_folder_or_by_its_weights_from_anywhere(everlearn, asked, whole, tmp_path, monkeypatch):
    interrupted(asked(out=tmp_path / "updated.pth"), 30)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert everlearn("resume", "../updated.pth").code == 0
    assert checkpoint.same(
        torch.load(tmp_path / "updated.pth", weights_only=True), load_file(whole / "model.safetensors")
    )


def test_a_signal_saves_and_leaves_with_0_and_the_rest_is_bit_identical(everlearn, long, tmp_path):
    much = long | {"epochs": 80, "compare": None, "checkpoint_steps": 5000, "checkpoint_seconds": 1000}
    process = subprocess.Popen(
        [sys.executable, "-m", "everlearn", "learn", *words(much)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("checkpoints/*/*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"Saved. Go on with: everlearn resume {tmp_path / 'run'}" in out
    assert not (tmp_path / "run/report.html").exists()
    assert everlearn("resume", tmp_path / "run").code == 0
    assert everlearn("learn", *words(much | {"out": tmp_path / "whole"})).code == 0
    same(tmp_path / "run", tmp_path / "whole")


def test_ctrl_c_leaves_with_130_so_that_what_waits_for_the_model_stops(everlearn, learn, tmp_path, monkeypatch):
    steps = Run.steps

    def interrupted(run, say):
        for moment in steps(run, say):
            yield moment
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "steps", interrupted)
        said = learn(out=tmp_path / "run")
    assert (said.code, said.err) == (130, "")
    assert f"Saved. Go on with: everlearn resume {tmp_path / 'run'}" in said.out
    assert not (tmp_path / "run/report.html").exists()
    assert everlearn("resume", tmp_path / "run").code == 0


def test_what_is_done_is_said_to_be_done(everlearn, whole):
    before = contents(whole)
    said = everlearn("resume", whole)
    assert said.code == 0
    assert f"The run is done: {whole / 'report.html'}" in said.out
    assert contents(whole) == before


def test_a_run_that_broke_off_while_it_wrote_its_results_writes_them_again(everlearn, asked, whole):
    folder = interrupted(asked(), 30)
    assert everlearn("resume", folder).code == 0
    before = contents(folder)
    for name in ("report.html", "model.pth"):
        (folder / name).unlink()
    assert everlearn("resume", folder).code == 0
    after = contents(folder)
    assert after.keys() == before.keys()
    same(folder, whole)


# -- what is refused -------------------------------------------------------------------------------------------


def refused(ended, *said):
    assert ended.code == 2, ended
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err + ended.out
    for phrase in said:
        assert re.search(phrase, ended.err), ended.err


def test_where_there_is_no_run_nothing_is_resumed(everlearn, tmp_path):
    refused(everlearn("resume", tmp_path), "there is no run in", "the --out of a run, a stream or a backtest")
    refused(everlearn("resume", tmp_path / "missing"), "there is no run in .*missing")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own(shop, tmp_path):
    """A run on files of its own, which broke off."""
    folder = tmp_path / "own"
    shutil.copytree(shop.folder, folder)
    return folder, interrupted(config_of(demanding(type(shop)(folder), tmp_path / "run")), 30)


def scale(path):
    state = torch.load(path, weights_only=True)
    torch.save({name: 2 * value for name, value in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("net.py", lambda path: path.write_text(path.read_text() + "\n# changed\n"), "model .*net.py"),
        ("deployed.pth", scale, "weights .*deployed.pth"),
        ("first.npz", lambda path: shutil.copy(path.with_name("second.npz"), path), "data .*first.npz"),
        ("old.npz", lambda path: shutil.copy(path.with_name("more.npz"), path), "data .*old.npz"),
    ],
)
def test_a_run_does_not_go_on_with_other_files(everlearn, own, name, change, said):
    files, folder = own
    before = contents(folder)
    kept = (files / name).read_bytes()
    change(files / name)
    refused(everlearn("resume", folder), "are not what they were when the run began", said, "begin a new run")
    assert contents(folder) == before
    (files / name).write_bytes(kept)
    assert everlearn("resume", folder).code == 0


@pytest.mark.parametrize("missing", ["net.py", "deployed.pth", "second.npz"])
def test_a_run_does_not_go_on_without_its_files(everlearn, own, missing):
    files, folder = own
    before = contents(folder)
    (files / missing).unlink()
    refused(everlearn("resume", folder), f"there is (no file|nothing at) .*{missing}")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 5), ("method", "er"), ("optimizer", "sgd:lr=0.5"), ("seed", 3), ("batch_size", 16)],
)
def test_a_run_does_not_go_on_with_other_settings(everlearn, asked, setting, value):
    folder = interrupted(asked(), 30)
    record = json.loads((folder / "config.json").read_text())
    record["config"][setting] = value
    (folder / "config.json").write_text(json.dumps(record))
    before = contents(folder)
    refused(everlearn("resume", folder), "are not what they were when the run began: the settings")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"config": 3, "inputs": 3, "environment": 3}', '{"config": {}}']
)
def test_a_config_that_is_damaged_is_said_to_be(everlearn, asked, content):
    folder = interrupted(asked(), 3)
    (folder / "config.json").write_text(content)
    refused(everlearn("resume", folder), "config.json is damaged", "begin a new run")


def test_a_run_that_was_moved_is_not_continued(everlearn, asked, tmp_path):
    folder = interrupted(asked(), 3)
    folder.rename(tmp_path / "moved")
    refused(everlearn("resume", tmp_path / "moved"), "was made in .*run; move it back")


def test_two_processes_do_not_work_on_one_run(everlearn, asked, whole):
    first = begin(asked())
    steps = first.steps()
    next(steps)
    before = contents(first.folder)
    refused(everlearn("resume", first.folder), "another process works on the run in")
    assert contents(first.folder) == before
    for _ in steps:  # the first is not disturbed
        pass
    same(first.folder, whole)


def test_the_lock_of_a_process_that_died_is_free(everlearn, asked):
    folder = interrupted(asked(), 3)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closed with the file, as the kernel does for the dead
    assert everlearn("resume", folder).code == 0


def test_other_versions_and_threads_are_said_but_not_refused(everlearn, asked):
    folder = interrupted(asked(), 3)
    record = json.loads((folder / "config.json").read_text())
    record["environment"]["torch"] = "1.0"
    (folder / "config.json").write_text(json.dumps(record))
    said = everlearn("resume", folder)
    assert said.code == 0
    assert re.search(r"torch was 1\.0 and is .*: the result may differ in its last bits", said.out)


# -- damage ----------------------------------------------------------------------------------------------------


def damage(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, lambda path: os.truncate(path, 1000), lambda path: os.truncate(path, 0)])
def test_a_damaged_checkpoint_is_said_set_aside_and_the_one_before_it_taken(everlearn, asked, whole, harm):
    folder = interrupted(asked(), 70)
    last = max(folder.glob("checkpoints/er*/*.checkpoint"))
    harm(last)
    said = everlearn("resume", folder)
    assert said.code == 0
    assert re.search(rf"{last.name} is (damaged|not a checkpoint)", said.out.replace("\n", " "))
    assert "going back to the one before it" in said.out
    same(folder, whole)


def test_where_all_checkpoints_are_damaged_nothing_starts_from_scratch(everlearn, asked):
    folder = interrupted(asked(), 70)
    for path in folder.glob("checkpoints/er*/*.checkpoint"):
        damage(path)
    for _ in range(2):
        refused(everlearn("resume", folder), "none of the checkpoints in .* is whole; nothing was started from scratch")
    assert not (folder / "report.html").exists()


def test_a_loss_that_is_no_number_leaves_weights_and_checkpoints_as_they_were(everlearn, settings, shop, tmp_path):
    before = contents(shop.folder)
    diverging = words(settings | {"optimizer": "sgd:lr=1e30", "checkpoint_steps": 1})
    refused(everlearn("learn", *diverging), "the loss is (nan|inf)", "smaller learning rate", "another --out")
    assert contents(shop.folder) == before
    assert not (tmp_path / "made/updated.pth").exists()
    paths = list((tmp_path / "made/updated").rglob("*.checkpoint"))
    assert paths
    for path in paths:
        weights = checkpoint.load(path)["learner"]["model"]
        assert all(bool(value.isfinite().all()) for value in weights.values())
    refused(everlearn("resume", tmp_path / "made/updated"), "the loss is (nan|inf)|not finite")


# -- a full disk -----------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from everlearn.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


def full(ended, folder):
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    assert f"The last checkpoint is whole: free some space, then go on with everlearn resume {folder}" in ended.stderr
    for path in folder.rglob("*.checkpoint"):
        checkpoint.load(path)
    assert not list(folder.rglob(".*"))  # what was begun was removed


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_the_run_goes_on(everlearn, long, whole, tmp_path):
    sizes = [path.stat().st_size for path in (whole / "checkpoints/fine-tuning").iterdir()]
    # Before its first step the optimizer has no moments yet: the first checkpoint fits, the next does not.
    folder = tmp_path / "run"
    started = interrupted(config_of(long | {"out": tmp_path / "probe"}), 1)
    small = min(started.rglob("*.checkpoint")).stat().st_size
    assert small < min(sizes)
    ended = subprocess.run(
        # -B: compiled modules above the limit would be cut short, too, and without an error.
        [sys.executable, "-B", "-c", LIMITED, str((small + min(sizes)) // 2), "learn", *words(long)],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False, timeout=120,
    )  # fmt: skip
    assert "File too large" in ended.stderr
    full(ended, folder)
    assert everlearn("resume", folder).code == 0
    same(folder, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_while_a_run_works(everlearn, asked, whole, small_disk):
    ballast = small_disk / "ballast"
    folder = small_disk / "run"
    interrupted(asked(out=folder), 1)
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - 4096))
    ended = everlearn("resume", folder)
    refused(ended, "the disk is full", "The last checkpoint is whole", f"everlearn resume {folder}")
    for path in folder.rglob("*.checkpoint"):
        checkpoint.load(path)
    ballast.unlink()
    assert everlearn("resume", folder).code == 0
    same(folder, whole)
