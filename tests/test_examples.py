"""Every example runs, is short, and does what its first line says."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SMALL = {
    "class_incremental": ["3"],
    "your_own_loop": ["1"],
    "stream_without_borders": ["400"],
    "resume": ["FOLDER", "4"],
    "images_from_folders": ["FOLDER"],
    "lightning_host": ["1"],
    "huggingface_host": ["1"],
    "adapt_without_labels": ["5"],
    "online_stream": ["400"],
    "delayed_labels": ["400"],
}
"""The small setting of each; FOLDER is a place to write to."""


def command(name, folder):
    return [sys.executable, EXAMPLES / f"{name}.py", *(folder if word == "FOLDER" else word for word in SMALL[name])]


def run(name, folder):
    """What it says in a process of its own."""
    done = subprocess.run(
        command(name, folder), capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_is_short_and_runs_and_says_something(name, tmp_path, monkeypatch, capsys):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60
    monkeypatch.setattr(sys, "argv", [str(word) for word in command(name, tmp_path)[1:]])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(sys.argv[0], run_name="__main__")  # in this process, which has torch; the next test starts one
    said = capsys.readouterr().out
    assert said.strip()
    if name == "class_incremental":  # replay keeps what fine-tuning loses
        plain, replay, _ = map(float, re.search(r"average accuracy +([\d.]+) +([\d.]+) +([\d.]+)", said).groups())
        assert plain < 30
        assert replay > 60
    if name == "adapt_without_labels":
        control, mcc = (float(re.search(rf"^{way}.* ([\d.]+)%$", said, re.MULTILINE)[1]) for way in ("control", "mcc"))
        assert mcc > control
    if name == "online_stream":  # the columns and classes that came later stand behind the first ones
        assert re.search(r"^load, heat, .*, noise -> .*\bworn$", said, re.MULTILINE)
    if name == "delayed_labels":  # who learns late of a world that turned errs for longer
        at_once, _, late = (float(share) for share in re.findall(r"([\d.]+)% of", said))
        assert late < at_once


def test_the_script_that_is_killed_ends_like_the_one_that_is_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    undisturbed = run("resume", whole)
    process = subprocess.Popen(command("resume", killed), stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=killed)
    deadline = time.monotonic() + 60
    while not list(killed.glob("*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = run("resume", killed)
    assert "going on after step" in resumed
    assert resumed.splitlines()[-1] == undisturbed.splitlines()[-1]
