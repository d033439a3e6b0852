"""Settings are chosen on the first arrivals alone; what is chosen is what scored best."""

import json
import math
import tomllib

import pytest

from everlearn.spec import parse_chain
from everlearn.workspace import tune as tuning
from everlearn.workspace.config import Config, make
from everlearn.workspace.folder import folder_of
from everlearn.workspace.opening import begin
from everlearn.workspace.tune import Open, opened, settled_on, tune

pytest.importorskip("optuna")


@pytest.fixture
def config(settings):
    plain = {name: value if isinstance(value, int) else str(value) for name, value in settings.items()}
    return lambda **changes: make(plain | {"optimizer": "sgd:lr=0.001|0.1", "method": "er"} | changes)


def test_ranges_and_choices_are_found_where_they_stand():
    found = opened(Config(method="er:count=8..64+ewc:lambda=1..1e6", optimizer="sgd:lr=0.1|0.01,momentum=0.9"))
    assert found == [
        Open("method.count", "count=8..64", 8, 64),
        Open("method.lambda", "lambda=1..1e6", 1, 1e6),
        Open("optimizer.lr", "lr=0.1|0.01", words=("0.1", "0.01")),
    ]
    assert [space.whole for space in found[:2]] == [True, False]
    assert [space.logarithmic for space in found[:2]] == [False, True]


def test_values_take_the_places_that_were_left_open():
    config = Config(method="er:count=8..64+ewc:lambda=1..1e6", optimizer="sgd:lr=0.1|0.01,momentum=0.9")
    values = {"method.count": 17, "method.lambda": 1234.5678, "optimizer.lr": "0.01"}
    closed = settled_on(config, values)
    assert closed.method == "er:count=17+ewc:lambda=1235"
    assert closed.optimizer == "sgd:lr=0.01,momentum=0.9"
    assert [spec.name for spec in parse_chain(closed.method)] == ["er", "ewc"]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("er", "nothing is left open"),
        ("ewc:lambda=9..1", "expected key=LOW..HIGH"),
        ("ewc:lambda=a..b", "expected key=LOW..HIGH"),
        ("er:count=1..9+derpp:count=1..5", "method.count is left open twice"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_way_out(method, says):
    with pytest.raises(ValueError, match=says):
        opened(Config(method=method))


def test_the_best_setting_is_written_and_can_be_learned_with(config):
    trials = list(tune(config(), trials=4))
    assert len(trials) == 4
    out = folder_of(config().out)
    tuned = tomllib.loads((out / "tuned.toml").read_text())
    ranked = json.loads((out / "trials.json").read_text())["trials"]
    assert [t["score"] for t in ranked] == sorted((t.score for t in trials), reverse=True)
    assert tuned["optimizer"] == f"sgd:lr={ranked[0]['values']['optimizer.lr']}"
    assert not [path for path in out.iterdir() if path.name.startswith("trial-")]
    begin(make(tuned))


def test_a_trial_sees_the_first_arrivals_only_and_no_test_row(config, monkeypatch):
    seen = []

    def watched(settings):
        seen.append(settings)
        return begin(settings)

    monkeypatch.setattr(tuning, "begin", watched)
    given = config()
    given = make(given.to_json() | {"data": [*given.data, "a folder that is not there"], "test": ["nor is this"]})
    assert len(list(tune(given, trials=1, first=1))) == 1
    assert [settings.test for settings in seen] == [()]
    assert [len(settings.data) for settings in seen] == [1]


def test_a_search_goes_on_where_it_was_and_not_from_the_same_draws(config):
    first = list(tune(config(method="er:count=4..400"), trials=2))
    second = list(tune(config(method="er:count=4..400"), trials=4))
    assert [trial.number for trial in first + second] == [0, 1, 2, 3]
    assert len({str(trial.values) for trial in first + second}) == 4


def test_trials_of_two_searches_are_not_mixed(config):
    list(tune(config(), trials=1))
    with pytest.raises(ValueError, match="another search"):
        next(tune(config(seed=3), trials=2))


def test_what_diverges_is_a_trial_without_a_score(config):
    trials = list(tune(config(optimizer="sgd:lr=1e30|0.01"), trials=4))
    assert {math.isnan(trial.score) for trial in trials if trial.values["optimizer.lr"] == "1e30"} <= {True}
    with pytest.raises(ValueError, match="none of 1 trials"):
        list(tune(config(optimizer="sgd:lr=1e30|1e31", out=str(config().out) + "-2"), trials=1))


def test_the_first_arrivals_must_be_there(config):
    with pytest.raises(ValueError, match="from 1 to the number of arrivals, 1, but is 2"):
        next(tune(config(), trials=1, first=2))
