"""The benchmark of streams writes tables from what it measured, and nothing else on the page changes."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

_SPEC = spec_from_file_location("streams", Path(__file__).parents[2] / "benchmarks" / "prequential.py")
streams = module_from_spec(_SPEC)
_SPEC.loader.exec_module(streams)

ROWS = [({"a": float(i % 7), "b": float(-i % 3)}, "dog" if i % 7 > 3 else "cat") for i in range(600)]


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("river")
    names = ("no-change", "logistic regression", "linear, SGD 0.01", "slda")
    return {"date": "now", "versions": "all", "data": {"Pets": {name: streams.measured(name, ROWS) for name in names}}}


def test_each_row_is_answered_before_it_is_learned():
    told = []
    streams.ours = lambda name: (lambda x: told.append("answer"), lambda x, y: told.append("learn"))
    try:
        row = streams.measured("slda", ROWS[:5])
    finally:
        _SPEC.loader.exec_module(streams)
    assert told == ["answer", "learn"] * 5
    assert row["readings"]["accuracy"] == 0


def test_a_table_has_a_line_for_each_model_and_the_best_in_bold(found):
    text = streams.markdown("Pets", found["data"]["Pets"], found)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == [
        *("| river: no-change", "| river: logistic regression", "| linear, SGD 0.01", "| slda")
    ]
    assert text.count("**") == 2
    assert "Pets: 600 rows" in text


def test_a_picture_has_all_models_and_no_change_in_grey(found):
    page = streams.pictures(found)
    assert all(f"% {name}" in page for name in found["data"]["Pets"])
    assert "var(--soft)" in page


def test_classes_of_any_name_are_told_apart_by_river_and_by_us(found):
    assert all(row["readings"]["kappa"] > 0.5 for name, row in found["data"]["Pets"].items() if name != "no-change")
