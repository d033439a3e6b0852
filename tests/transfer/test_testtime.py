"""A stream is adapted to, beside the model that does not adapt."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import zoo
from methods.targets import NAMES

from everlearn import checkpoint
from everlearn.batch import UNLABELED, take
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EATA, METHODS, TENT, AdaBN, Naive, Replay
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience
from everlearn.transfer.testtime import Adaptation, Window, adapt

SGD = partial(torch.optim.Adam, lr=0.003)


@pytest.fixture(scope="module")
def trained():
    """What a convnet with batch norms knows of digits."""
    torch.manual_seed(0)
    train, test = zoo.digits()
    learner = Learner(zoo.Conv(10), optimizer=SGD, epochs=5, batch_size=32)
    learner.learn(Experience(0, train, test, tuple(range(10))))
    assert learner.evaluate(test).value > 0.9
    return snapshot(learner.model)


def learner(method, weights, *, rate=1e-3, objective=classify):
    model = zoo.Conv(10)
    model.load_state_dict(weights)
    return Learner(model, method, objective, optimizer=partial(torch.optim.Adam, lr=rate), batch_size=50)


def faint(count=397):
    """Test rows of little contrast, on grey."""
    _, test = zoo.digits()
    rows = test.take(torch.arange(count))
    return Columns(x=0.4 + 0.3 * rows["x"], y=rows["y"])


def test_no_row_is_left_over_for_a_batch_of_its_own(trained):
    subject = learner(AdaBN(), trained)
    subject.batch_size = 2
    assert [window.rows for window in adapt(subject, faint(7), window=1).windows] == [3, 2, 2]


@pytest.mark.parametrize("name", NAMES)
def test_rows_as_they_are_give_no_alarm(name, trained):
    subject, clean = learner(METHODS[name](), trained), zoo.digits()[1]
    found = adapt(subject, Columns(**clean.take(torch.arange(397).repeat(3))))
    assert found.whole.alarms == found.whole.resets == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_counts_what_observe_says_and_what_was_said_without_adaptation(name, trained):
    subject = learner(METHODS[name](), trained)
    frozen = subject.evaluate(faint())
    found = adapt(subject, faint(), window=3)
    assert found.whole.frozen == frozen.correct
    assert found.whole.labelled == found.whole.rows == 397
    assert found.whole.batches == 8
    assert [window.batches for window in found.windows] == [3, 3, 2]
    other = learner(METHODS[name](), trained)
    batches = [faint().take(index) for index in torch.arange(397).tensor_split(8)]
    right = sum(int((other.observe({"x": b["x"]}).logits.argmax(1) == b["y"]).sum()) for b in batches)
    assert found.whole.right == right
    assert checkpoint.same(snapshot(subject.model), snapshot(other.model))
    assert found.gain > 0.2


def test_labels_never_reach_the_method(trained):
    seen = []

    def watching(model, batch):
        seen.append(sorted(batch))
        return classify(model, batch)

    adapt(learner(TENT(), trained, objective=watching), faint(100))
    assert seen
    assert not any("y" in columns for columns in seen)


def test_rows_without_labels_are_not_counted(trained):
    rows = faint(100).take(torch.arange(100))
    some = rows | {"y": rows["y"].masked_fill(torch.arange(100) % 2 == 0, UNLABELED)}
    found = adapt(learner(AdaBN(), trained), [take(some, slice(0, 50)), take(some, slice(50, 100)), {"x": rows["x"]}])
    assert found.whole.labelled == 50
    assert found.whole.rows == 200
    none = adapt(learner(AdaBN(), trained), [{"x": rows["x"]}])
    assert none.whole.accuracy != none.whole.accuracy, "not a number"


def test_no_single_row_is_left_over(trained):
    assert adapt(learner(TENT(), trained), faint(101)).whole.rows == 101


def test_no_adaptation_is_w0_though_the_method_has_adapted_before(trained):
    subject = learner(TENT(), trained, rate=0.03)
    frozen = subject.evaluate(faint())
    first, second = adapt(subject, faint()), adapt(subject, faint())
    assert first.whole.frozen == second.whole.frozen == frozen.correct
    assert first.whole.right != second.whole.right


def test_alarms_and_resets_are_in_the_windows_in_which_they_were(trained):
    noise = torch.randn(397, 64, generator=torch.Generator().manual_seed(0))
    noisy = Columns(x=faint().column("x") + 0.4 * noise, y=faint().column("y"))
    found = {}
    for reset in (True, False):
        subject = learner(TENT(alarm=0.85, reset=reset), trained, rate=0.05)
        runs = [adapt(subject, noisy, window=4) for _ in range(8)]
        found[reset] = runs
        assert sum(run.whole.alarms for run in runs) == int(subject.method.spread.alarms)
        assert sum(run.whole.resets for run in runs) == int(subject.method.resets)
    assert [sum(run.whole.alarms for run in runs) > 1 for runs in found.values()] == [True, False]
    assert sum(run.whole.alarms for run in found[False]) == 1
    assert sum(run.whole.resets for run in found[True]) == sum(run.whole.alarms for run in found[True])
    assert sum(run.whole.resets for run in found[False]) == 0


def test_behind_a_memory_it_is_found_in_the_chain(trained):
    train, test = zoo.digits()
    subject = learner(Chain(Replay(Memory(50), count=10), EATA()), trained)
    subject.remember(Experience(0, train, test, tuple(range(10))))
    assert adapt(subject, faint(150)).gain > 0.1


def test_a_method_that_does_not_adapt_is_refused_with_the_way_out(trained):
    for method in (None, Naive(), Chain(Naive())):
        with pytest.raises(ValueError, match=r"does not adapt at test time.*TENT"):
            adapt(learner(method, trained), faint(50))
    with pytest.raises(ValueError, match="no batches"):
        adapt(learner(TENT(), trained), [])
    with pytest.raises(ValueError, match="window"):
        adapt(learner(TENT(), trained), faint(50), window=0)


def test_the_result_is_a_table_and_survives_json():
    windows = (Window(2, 20, 10, 8, 5, 0, 0), Window(1, 5, 0, 0, 0, 1, 1))
    found = Adaptation("TENT", windows)
    assert Adaptation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.gain == pytest.approx(0.3)
    assert str(found).splitlines() == [
        "| rows | no adaptation, % | TENT, % | alarms | resets |",
        "|---|---:|---:|---:|---:|",
        "| 0 to 19 | 50.0 | 80.0 | 0 | 0 |",
        "| 20 to 24 |  |  | 1 | 1 |",
        "| all | 50.0 | 80.0 | 1 | 1 |",
    ]


@pytest.mark.skipif("EVERLEARN_DATA" not in os.environ, reason="real data are asked for by EVERLEARN_DATA")
def test_the_benchmark_runs(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "testtime.py"
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- severities -->\nold\n<!-- end of severities -->\n<!-- long run -->\n<!-- end of long run -->\n"
    )
    command = [sys.executable, "-W", "error", str(script), "--tiny", "--docs", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parents[1])
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "| corruption | no adaptation | AdaBN | TENT | EATA | SAR | CoTTA |" in text
    assert "| TENT, reset=False |" in text
    assert "old" not in text
