"""The rows: each can be made and is held to what its protocol scores; the quick ones are run where the data is."""

import json
import os
from pathlib import Path

import pytest
from bench.tiny import digits

from everlearn.bench.code import code
from everlearn.bench.published import ORDERINGS, ROWS
from everlearn.bench.trained import Trained
from everlearn.bench.verdict import PASS, Line
from everlearn.methods.composition import build

every_row = pytest.mark.parametrize("name", ROWS)
DATA = Path(os.environ.get("EVERLEARN_DATA", "nowhere"))


@every_row
def test_each_row_can_be_made_and_is_plain_values(name):
    row = ROWS[name]
    assert row.name == name
    assert row.seeds >= 1
    assert row.cost > 0
    if row.method:
        build(row.method)
    assert json.loads(json.dumps(row.config()))["protocol"] == type(row.protocol).__name__
    if isinstance(row.protocol, Trained):
        assert set(row.published) <= set(row.protocol.scores)


def test_orderings_are_between_rows_that_there_are_and_scores_that_they_have():
    for ordering in ORDERINGS:
        for name in (ordering.higher, ordering.lower):
            if name in ROWS and isinstance(ROWS[name].protocol, Trained):
                assert ordering.score in ROWS[name].protocol.scores


def test_the_code_of_a_row_is_that_of_its_own_method_and_of_what_that_uses(monkeypatch, tmp_path):
    ewc, der, both = code("everlearn.methods.ewc"), code("everlearn.methods.der"), code("everlearn.methods.der")
    assert ewc != der == both
    whole = code("everlearn.bench.trained", "everlearn.methods.der")
    assert whole not in {der, code("everlearn.bench.trained"), code("everlearn.bench.trained", "everlearn.methods.ewc")}
    assert code("everlearn.methods", "everlearn.methods.ewc") == ewc  # the list of all methods is no part of one


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("smnist", "task", "domain", "mir"))][::4])
def test_rows_run_on_small_digits_too(name):
    row = ROWS[name]
    values = row.protocol.scored(row.method, 0, *digits()) if not row.protocol.steps else {}
    assert all(0 <= value <= 100 for value in values.values())


def lines_of(name):
    row = ROWS[name]
    try:
        row.protocol.data(DATA)
    except ValueError as error:
        pytest.skip(str(error))
    values = row.protocol.measure(row.method, 0, DATA)
    return {score: Line(row, score, {0: value}) for score, value in values.items()}


def test_the_readings_of_a_published_matrix_are_the_published_ones():
    lines = lines_of("metrics")
    assert {line.verdict for line in lines.values()} == {PASS}
    assert round(lines["average_accuracy"].ours.mean, 2) == 28.95
    assert round(lines["backward_transfer"].ours.mean, 2) == -40.51


@pytest.mark.parametrize("name", ["smnist-sgd", "pixels-ridge"])
def test_quick_rows_pass_on_mnist(name):
    assert {line.verdict for line in lines_of(name).values()} == {PASS}
