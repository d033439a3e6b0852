"""`everlearn stream` and `everlearn resume`: what is typed, shown, stopped and gone on with."""

import csv
import errno
import fcntl
import io
import json
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

import everlearn as package
from everlearn import checkpoint
from everlearn.online.opening import begin_service
from everlearn.online.settings import make_settings

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(package.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}
QUICK = ("--model", "linear", "--drift", "none")


def table(path, count=300, *, torn=0, seed=0):
    chance = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time", "size", "day", "label"])
        for number in range(count):
            label = chance.choice("ab")
            centre = 1 if label == "a" else -1
            writer.writerow(
                [f"r{number}", 1e9 + number, chance.gauss(centre, 0.5), chance.choice(["mon", "tue"]), label]
            )
            if number % 10 == 0:
                writer.writerow([f"r{number}", 1e9 + number, 0.0, "mon", label])
            if torn and number % torn == 0:
                file.write("torn,line\n")
    return path


def begun(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "everlearn", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip


def report(folder):
    return json.loads((folder / "report.json").read_text())


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved(folder):
    newest = max(folder.glob("checkpoints/*.checkpoint"), default=None)
    return 0 if newest is None else int(newest.stem)


def test_a_stream_is_answered_learned_and_told_of(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv")
    said = everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK, "--predictions")
    assert (said.code, said.err) == (0, "")
    assert "accuracy" in said.out
    assert "30 duplicates, 0 bad rows" in said.out
    assert f"report    {tmp_path / 'run/report.html'}" in said.out
    found = report(tmp_path / "run")
    assert found["ended"] is True
    assert (found["counts"]["rows"], found["counts"]["learned"], found["counts"]["duplicates"]) == (300, 300, 30)
    assert found["readings"]["accuracy"] > 0.8
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == 300
    page = (tmp_path / "run/report.html").read_text()
    assert "last 1,000 rows" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_has_ended_is_said_to_have_ended(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 50)
    everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK)
    said = everlearn("resume", tmp_path / "run")
    assert said.code == 0
    assert "The stream has ended, and all of it is learned" in said.out


def test_a_stream_without_any_label_is_said_to_have_taught_nothing(everlearn, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("a;label\n1;x\n2;y\n")
    said = everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK)
    assert said.code == 0
    assert "Nothing was learned, as no row got its label" in said.out


def test_a_full_disk_says_how_to_go_on(everlearn, tmp_path, monkeypatch):
    source = table(tmp_path / "rows.csv", 50)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", full)
        said = everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK, "--checkpoint-rows", 20)
    assert said.code == 2
    assert "the disk is full (No space left on device). The last checkpoint is whole: free some" in said.err
    assert f"everlearn resume {tmp_path / 'run'}" in said.err
    assert everlearn("resume", tmp_path / "run").code == 0
    assert report(tmp_path / "run")["counts"]["learned"] == 50


def test_settings_come_from_a_file_and_flags_win(everlearn, tmp_path):
    table(tmp_path / "rows.csv", 40)
    config = tmp_path / "stream.toml"
    config.write_text('source = "rows.csv"\nout = "run"\nmodel = "linear"\ndrift = "none"\nbatch-size = 4\nseed = 1\n')
    assert everlearn("stream", "--config", config, "--seed", "7").code == 0
    asked = report(tmp_path / "run")["facts"]["settings"]
    assert (asked["batch_size"], asked["seed"]) == (4, 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "run"], "--source must be given"),
        (["--source", "nothing.csv", "--out", "run"], "there is no"),
        (["--source", "rows.csv", "--out", "run", "--label", "lable"], "has no column 'lable' for label"),
        (["--source", "rows.csv", "--out", "run", "--label-delay", "soon"], "label_delay must be a time such as 7d"),
        (["--source", "rows.csv", "--out", "run", "--method", "ewc"], "a stream has no borders"),
        (["--source", "rows.csv", "--out", "run", "--bad-rows", "few"], "a number (100) or a share (1%)"),
        (["--source", "rows.csv", "--out", "run", "--batch-size", "0"], "batch_size must be at least 1, but is 0"),
        (["--source", "rows.csv", "--out", "run", "--drift", "adwim"], "adwin"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_nothing_is_written(
    everlearn, tmp_path, monkeypatch, words, message
):
    table(tmp_path / "rows.csv", 5)
    monkeypatch.chdir(tmp_path)
    said = everlearn("stream", *words)
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "run").exists()


def test_a_beginning_that_was_killed_is_begun_again(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 5)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.config.json.123").write_text("{")
    assert everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK).code == 0


@pytest.mark.parametrize(("library", "extra"), [("river", "online"), ("redis", "redis")])
def test_a_library_that_is_not_installed_is_said_with_the_way_to_install_it(
    everlearn, tmp_path, monkeypatch, library, extra
):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    source = table(tmp_path / "rows.csv", 5) if library == "river" else "redis://localhost/rows"
    drift = "adwin" if library == "river" else "none"
    said = everlearn("stream", "--source", source, "--out", tmp_path / "run", "--drift", drift)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert f"pip install 'everlearn[{extra}]'" in said.err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_no_rows_is_said_to_hold_none(everlearn, tmp_path):
    (tmp_path / "photos/ant").mkdir(parents=True)
    said = everlearn("stream", "--source", tmp_path / "photos", "--out", tmp_path / "run", *QUICK)
    assert said.code == 0
    assert "held no row that could be read" in said.out


def test_nothing_is_overwritten(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 5)
    everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK)
    said = everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK)
    assert said.code == 2
    assert f"go on with it (everlearn resume {tmp_path / 'run'}), or choose another --out" in said.err
    said = everlearn("stream", "--source", source, "--out", tmp_path, *QUICK)
    assert f"{tmp_path} is not empty; choose another --out" in said.err


def test_too_many_bad_rows_stop_it_and_it_goes_on_with_another_limit(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 100, torn=5)
    said = everlearn("stream", "--source", source, "--out", tmp_path / "run", *QUICK, "--bad-rows", "10")
    assert said.code == 2
    assert "11 of" in said.err
    assert f"everlearn resume {tmp_path / 'run'} --bad-rows 22" in said.err
    assert report(tmp_path / "run")["ended"] is False
    assert everlearn("resume", tmp_path / "run", "--bad-rows", "22").code == 0
    assert report(tmp_path / "run")["counts"]["quarantined"] == 20
    assert len((tmp_path / "run/quarantine.jsonl").read_text().splitlines()) == 20


def test_a_signal_saves_reports_and_leaves_with_0_and_what_comes_later_is_gone_on_with(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 200)
    words = ("--follow", "--checkpoint-rows", 20, "--queue", 500)
    process = begun("stream", "--source", source, "--out", tmp_path / "run", *QUICK, *words)
    until(lambda: saved(tmp_path / "run") >= 200)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert (process.returncode, err) == (0, "")
    assert f"Saved. Go on with: everlearn resume {tmp_path / 'run'}" in out
    assert report(tmp_path / "run")["ended"] is False
    assert saved(tmp_path / "run") == 220
    with source.open("a") as file:
        file.writelines(f"r{number},1e9,0.5,mon,a\n" for number in range(200, 220))

    def stop():
        until(lambda: saved(tmp_path / "run") >= 240)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    said = everlearn("resume", tmp_path / "run")
    stopper.join()
    assert (said.code, said.err) == (0, "")
    counts = report(tmp_path / "run")["counts"]
    assert (counts["rows"], counts["duplicates"]) == (220, 20)
    assert counts["learned"] + counts["shed"] == 220


EARLY = """
import os, signal, sys

class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Early())
from everlearn.cli import main
main()
"""


@pytest.mark.parametrize("again", [False, True])
def test_a_signal_that_comes_before_torch_is_there_saves_and_leaves_with_0_too(everlearn, tmp_path, again):
    source = table(tmp_path / "rows.csv", 200)
    words = ["stream", "--source", source, "--out", tmp_path / "run", *QUICK]
    if again:
        asked = {"source": str(source), "out": str(tmp_path / "run"), "model": "linear", "drift": "none"}
        begin_service(make_settings(asked)).feed.close()
        words = ["resume", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-c", EARLY, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Saved. Go on with: everlearn resume {tmp_path / 'run'}" in done.stdout
    assert report(tmp_path / "run")["ended"] is False
    assert everlearn("resume", tmp_path / "run").code == 0
    assert report(tmp_path / "run")["counts"]["learned"] == 200


def test_resumed_after_a_signal_it_ends_as_if_it_had_never_stopped(everlearn, tmp_path):
    source = table(tmp_path / "rows.csv", 1200)
    words = ("--model", "mlp:hidden=8", "--drift", "none", "--method", "er:memory=20,count=4", "--checkpoint-rows", 100)
    process = begun("stream", "--source", source, "--out", tmp_path / "run", *words)
    until(lambda: saved(tmp_path / "run") >= 200)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")  # as Ctrl-C ends any other program
    assert saved(tmp_path / "run") < 1320
    assert everlearn("resume", tmp_path / "run").code == 0
    assert everlearn("stream", "--source", source, "--out", tmp_path / "whole", *words).code == 0
    first, second = (checkpoint.load(max((tmp_path / name / "checkpoints").iterdir())) for name in ("run", "whole"))
    assert checkpoint.same(first["learning"], second["learning"])


def test_in_a_terminal_there_is_a_view_that_is_always_there(tmp_path):
    source = table(tmp_path / "rows.csv", 3000)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "everlearn", "stream", "--source", source, "--out", tmp_path / "run", *QUICK],
        stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    for word in ("rows", "latency", "p99", "accuracy", "kappa-T", "labels", "drift", "duplicates", "memory", "▁"):
        assert word in text


def test_the_view_says_what_there_is(tmp_path):
    from everlearn.cli.live import line, picture

    source = table(tmp_path / "rows.csv", 300, torn=100)
    asked = {"source": str(source), "out": str(tmp_path / "run"), "model": "linear", "drift": "none"}
    made = begin_service(make_settings(asked))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(made))  # before the first row
    assert "no label yet" in line(made, 0.0)
    for _ in made.steps():
        pass
    made.feed.close()
    made.feed.trouble = "ConnectionError: refused"
    console.print(picture(made, 12345.6))
    shown = console.export_text()
    assert "300, 12,346 a second; 300 learned" in shown
    assert "30 duplicates, 3 bad rows" in shown
    assert "nobody looks" in shown
    assert "waited for: ConnectionError: refused" in shown
    assert line(made, 10.0).startswith("300 rows, 10/s, p50 ")
    assert line(made, 10.0).endswith("; the source is waited for: ConnectionError: refused")
