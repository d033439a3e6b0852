import json
import os
import signal
import subprocess
import sys
import time

import pytest
from backtest.logs import table
from typer.testing import CliRunner

from everlearn.backtest.config import Config
from everlearn.backtest.run import begin, resume
from everlearn.cli import main
from everlearn.cli.app import app
from everlearn.cli.show import console

POLICIES = ("never", "retrain:every=3d", "online:batch=4")


def config(tmp_path, *, policies=POLICIES, count=250, **settings):
    source = tmp_path / "log.csv"
    if not source.exists():
        table(source, count, turn=150)
    given = {"label": "answer", "time": "when", "model": "mlp:hidden=8", "epochs": 2, "label_delay": "10h"} | settings
    return Config(str(source), str(tmp_path / "out"), policies, **given)


def finish(run):
    for _ in run.steps():
        pass
    return json.loads((run.folder / "report.json").read_text())


def timeless(report):
    """The report without what a clock said."""
    policies = {
        name: {key: v for key, v in each.items() if key != "seconds"} for name, each in report["policies"].items()
    }
    return {**report, "policies": policies, "summary": ""}


def test_the_report_has_all_policies_and_the_baselines(tmp_path):
    report = finish(begin(config(tmp_path)))
    assert set(report["policies"]) == {*POLICIES, "no-change", "majority"}
    assert report["best"] in report["tied"]
    assert report["advised"] in report["tied"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_twice_the_same_gives_the_same(tmp_path):
    first = timeless(finish(begin(config(tmp_path))))
    (tmp_path / "again").mkdir()
    assert timeless(finish(begin(config(tmp_path / "again")))) == first


def test_the_same_command_goes_on_where_it_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr("everlearn.backtest.replay.BLOCK", 50)
    whole = timeless(finish(begin(config(tmp_path))))
    (tmp_path / "again").mkdir()
    asked = config(tmp_path / "again")
    for leave in (3, 9, 12):
        steps = begin(asked).steps()
        for _ in range(leave):
            next(steps)
        steps.close()
    assert timeless(finish(resume(tmp_path / "again" / "out"))) == whole


def test_more_policies_may_be_asked_for_and_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    first = finish(begin(config(tmp_path, policies=("never", "online"))))
    run = begin(config(tmp_path, policies=("never", "online", "finetune:every=100")))
    assert not run.done
    moments = [(moment.policy, moment.at) for moment in run.steps()]
    assert {policy for policy, _ in moments} == {"finetune:every=100"}
    second = json.loads((run.folder / "report.json").read_text())
    assert second["policies"]["online"] == first["policies"]["online"]  # the seconds, too


def test_another_log_or_other_settings_are_refused_by_name(tmp_path):
    finish(begin(config(tmp_path, policies=("never",))))
    with pytest.raises(ValueError, match=r"another backtest \(seed: 0 then, 1 now\).*another --out"):
        begin(config(tmp_path, policies=("never",), seed=1))
    table(tmp_path / "log.csv", 249)
    with pytest.raises(ValueError, match=r"the log itself"):
        begin(config(tmp_path, policies=("never",)))


def test_a_policy_that_fails_is_named_and_the_others_go_on_without_it(tmp_path, monkeypatch):
    def turn(*given):
        raise ValueError("the loss is nan")

    monkeypatch.setattr("everlearn.backtest.trained.FineTune.turn", turn)
    with pytest.raises(ValueError, match=r"finetune:every=3d, after row \d+ of the log: the loss is nan.*without this"):
        finish(begin(config(tmp_path, policies=("online", "finetune:every=3d"))))
    run = begin(config(tmp_path, policies=("online",)))
    assert "online" not in {moment.policy for moment in run.steps()}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all")
    with pytest.raises(ValueError, match=r"files of something else"):
        begin(config(tmp_path))


def test_without_policies_there_are_usual_ones(tmp_path):
    run = begin(config(tmp_path, policies=()))
    assert run.config.policies == ("never", "retrain:every=22", "finetune:every=22", "online")


def test_a_policy_that_cannot_be_made_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"no policy 'nvr'"):
        begin(config(tmp_path, policies=("never", "nvr")))
    assert not (tmp_path / "out").exists()


def test_a_column_of_times_of_labels(tmp_path):
    table(tmp_path / "log.csv", 300, known=True)
    report = finish(begin(config(tmp_path, policies=("online",), label_delay="", label_time="known")))
    assert report["policies"]["online"]["age"]["mean"] == pytest.approx(5 * 3600)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "ranking"}, "task must be one of"),
        ({"label_delay": "3d", "label_time": "known"}, "give one of them"),
        ({"policies": ("never", "never")}, "there twice"),
        ({"clip": -1.0}, "at least 0"),
        ({"epochs": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **settings)


def command(tmp_path, *policies):
    return [
        *("backtest", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out"), "--label", "answer"),
        *("--time", "when", "--model", "mlp:hidden=8", "--epochs", "2", "--label-delay", "10h"),
        *(word for text in policies for word in ("--policy", text)),
    ]


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path):
    whole = timeless(finish(begin(config(tmp_path, count=500))))
    again = tmp_path / "killed"
    again.mkdir()
    (tmp_path / "log.csv").rename(again / "log.csv")
    arguments = [sys.executable, "-m", "everlearn", *command(again, *POLICIES)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    folder = again / "out" / "checkpoints" / "retrain_every=3d"
    while process.poll() is None and not (folder.exists() and any(folder.glob("*.checkpoint"))):
        time.sleep(0.01)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed
    run = resume(again / "out")
    assert not run.done
    assert timeless(finish(run)) == whole


def test_the_command_shows_a_table_and_resume_shows_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "width", 200)
    table(tmp_path / "log.csv", 300)
    done = CliRunner().invoke(app, command(tmp_path, "never", "online"), catch_exceptions=False)
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "out")], catch_exceptions=False)
    for shown in (done.stdout, again.stdout):
        for word in ("never", "online", "no-change", "the best", "is best", "report.html"):
            assert word in shown


def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    table(tmp_path / "log.csv", 300)
    monkeypatch.setattr(sys, "argv", ["everlearn", *command(tmp_path, "nevr")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "did you mean 'never'" in capsys.readouterr().err
