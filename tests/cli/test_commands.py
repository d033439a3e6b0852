"""The commands that do not learn, and what a terminal shows."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from typer.testing import CliRunner
from workspace.inputs import contents, words

import everlearn as package
from everlearn.cli import demo, main
from everlearn.cli.app import app
from everlearn.method import FAMILIES
from everlearn.methods import METHODS

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(package.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


def test_methods_lists_each_with_its_idea_and_its_settings(everlearn):
    said = everlearn("methods")
    assert said.code == 0
    shown = re.findall(r"^ (\w+) {2,}\S", said.out, re.MULTILINE)
    families = [FAMILIES.index(METHODS[name].card.family) for name in shown if name in METHODS]
    assert sorted(name for name in shown if name in METHODS) == sorted(METHODS)
    assert families == sorted(families)
    for phrase in ("memory=2000", "lambda=1", "mode=separate", "head=none", "seed=0"):
        assert phrase in said.out


@pytest.mark.parametrize("typed", ["derpp", "der++", "DER++"])
def test_one_method_is_shown_with_its_equation_and_its_paper(everlearn, typed):
    said = everlearn("methods", typed)
    assert said.code == 0
    assert "arXiv:2004.07211" in said.out
    assert "L = L_new" in said.out
    assert "alpha=0.1" in said.out
    assert "ewc" not in said.out.replace("er:memory=2000+ewc", "")


def test_evaluate_says_the_same_as_the_report_of_the_run(learn, everlearn, shop, tmp_path):
    assert learn(epochs=2).code == 0
    given = ("--model", shop.model(), "--weights", tmp_path / "made/updated.pth", "--data", shop / "test.npz")
    before = contents(tmp_path)
    said = everlearn("evaluate", *given)
    assert (said.code, said.err) == (0, "")
    assert contents(tmp_path) == before
    scores = json.loads((tmp_path / "made/updated/report.json").read_text())["runs"]["er"]["scores"]["scores"]
    final = [score for score in scores if score["after"] == 1 and score["final"]]
    for name, (right, rows) in {name: pair for score in final for name, pair in score["by_class"].items()}.items():
        assert re.search(rf"^ {name} +{100 * right / rows:.1f} +{right} +{rows} *$", said.out, re.MULTILINE)
    right, rows = (sum(score[what] for score in final) for what in ("correct", "count"))
    assert re.search(rf"^ all +{100 * right / rows:.1f} +{right:.0f} +{rows} *$", said.out, re.MULTILINE)


def test_classes_that_the_model_does_not_know_count_as_wrong_and_are_named(everlearn, shop):
    said = everlearn(
        "evaluate", "--model", shop.model(), "--weights", shop / "deployed.pth", "--data", shop / "test.npz"
    )
    assert re.search(r"^ 3 \(unknown to the model\) +0\.0 +0 +20", said.out, re.MULTILINE)
    assert re.search(r"^ all +\S+ +\d+ +100 *$", said.out, re.MULTILINE)


def test_the_demo_shows_what_is_lost_without_protection_and_can_be_run_again(everlearn, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN", 500)
    monkeypatch.setattr(demo, "EPOCHS", 3)
    said = everlearn("demo", "--out", tmp_path / "demo")
    assert (said.code, said.err) == (0, "")
    runs = json.loads((tmp_path / "demo/report.json").read_text())["runs"]
    assert runs["er+lwf"]["average_accuracy"] > runs["fine-tuning"]["average_accuracy"] + 0.2
    assert (tmp_path / "demo/report.html").is_file()
    (tmp_path / "demo/mine.txt").write_text("of the user")
    again = everlearn("demo", "--out", tmp_path / "demo", "--method", "naive")
    assert again.code == 0
    assert list(json.loads((tmp_path / "demo/report.json").read_text())["runs"]) == ["naive"]
    assert (tmp_path / "demo/mine.txt").read_text() == "of the user"


def test_the_demo_takes_no_folder_of_someone_else(everlearn, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    said = everlearn("demo", "--out", tmp_path)
    assert said.code == 2
    assert "is not empty and holds no earlier demo" in said.err
    assert contents(tmp_path) == before


def test_each_command_has_help_and_help_is_at_once():
    commands = ([], ["learn"], ["resume"], ["evaluate"], ["methods"], ["demo"])
    script = "import sys\nfrom everlearn.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    for command in commands:
        said = subprocess.run(
            [sys.executable, "-c", script, *command, "--help"],
            capture_output=True, text=True, env=ENVIRONMENT | {"COLUMNS": "160"}, check=True, timeout=60,
        )  # fmt: skip
        assert said.stdout.rstrip().endswith("False")
        if command == ["learn"]:
            for flag in ("--model", "--weights", "--data", "--old", "--test", "--method", "--config", "--compare"):
                assert flag in said.stdout


@pytest.mark.parametrize("command", [command.callback.__name__ for command in app.registered_commands])
def test_in_80_columns_no_word_of_the_help_is_cut(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = CliRunner().invoke(app, [command, "--help"], terminal_width=80)
    assert said.exit_code == 0
    assert "…" not in said.output


def test_a_character_that_the_output_does_not_have_ends_nothing(everlearn, tmp_path, monkeypatch):
    (tmp_path / "größer").mkdir()
    (tmp_path / "größer/report.html").touch()
    ascii_only = TextIOWrapper(BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", ascii_only)
    said = everlearn("resume", tmp_path / "größer")
    assert (said.code, said.err) == (0, "")
    assert b"The run is done: " in ascii_only.buffer.getvalue()
    assert b"gr??er/report.html" in ascii_only.buffer.getvalue()


def test_the_version_is_said(everlearn):
    assert everlearn("--version") == (0, f"everlearn {package.__version__}\n", "")


def test_a_terminal_shows_progress_and_keeps_paths_in_one_piece(settings, tmp_path):
    parent, child = pty.openpty()
    folder = tmp_path / ("long-" * 20)
    process = subprocess.Popen(
        [sys.executable, "-m", "everlearn", "learn", *words(settings | {"epochs": 30, "out": folder})],
        stdout=child, stderr=child, stdin=child, env=ENVIRONMENT | {"COLUMNS": "80", "TERM": "xterm"}, cwd=tmp_path,
    )  # fmt: skip
    os.close(child)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            seen += os.read(parent, 65536)
        except OSError:  # the other end was closed
            break
    os.close(parent)
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert "er: new" in text
    assert re.search(r"\d+%", text)
    assert "rows/s" in text
    assert str(folder / "report.html") in text


def test_the_settings_of_a_run_serve_to_evaluate_too(everlearn, shop, tmp_path):
    lines = {"model": shop.model("Photo"), "weights": shop / "photo.safetensors", "data": shop / "photos"}
    lines |= {"old": shop / "photos", "test": shop / "test-photos", "out": tmp_path / "run"}
    (tmp_path / "job.toml").write_text("\n".join(f'{name} = "{value}"' for name, value in lines.items()))
    said = everlearn("evaluate", "--config", tmp_path / "job.toml")
    assert said.code == 0, said.err
    assert re.search(r"^ all +100\.0 +16 +16", said.out, re.MULTILINE)


def test_tune_tries_settings_and_says_how_to_learn_with_the_best(everlearn, settings):
    pytest.importorskip("optuna")
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    flags += ["--optimizer", "sgd:lr=0.001|0.1", "--trials", 2]
    said = everlearn("tune", *flags)
    assert said.code == 0, said.err
    assert len(re.findall(r"^trial \d: optimizer.lr=0", said.out, re.MULTILINE)) == 2
    assert "held-out training rows of the first 1 of 1 arrivals" in said.out
    config = re.search(r"--config (\S+)", said.out)[1]
    assert everlearn("learn", "--config", config).code == 0


def test_tune_with_nothing_left_open_is_refused(everlearn, settings):
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    said = everlearn("tune", *flags)
    assert said.code == 2
    assert "nothing is left open" in said.err


def test_ctrl_c_before_a_command_has_begun_is_no_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("everlearn.cli.app.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
