"""The table, the JSON and the page say the same: ours, theirs, the tolerance, and whether it holds."""

import json
from dataclasses import replace

import pytest
from bench.tiny import row

from everlearn.bench.report import lines_of, page, tables, to_json
from everlearn.bench.running import Run
from everlearn.bench.statistics import Published
from everlearn.bench.verdict import FAIL, PASS, Ordering

FINGERPRINT = {"config": {"method": "naive"}, "code": "c", "data": "d", "versions": {"torch": "2"}}


def runs(name, *values):
    return [Run(name, seed, {"accuracy": value}, 1.0, FINGERPRINT, {"cores": 4}) for seed, value in enumerate(values)]


@pytest.fixture
def found():
    rows = [row("near"), row("far"), row("reference", theirs=None), row("not run")]
    made = {
        "near": runs("near", 90, 91, 92), "far": runs("far", 80.0, 80.5, 81.0), "reference": runs("reference", 85.0),
    }  # fmt: skip
    return lines_of(rows, made), made


ORDERINGS = [
    Ordering("near", "far", 5.0, "accuracy", "a paper"),
    Ordering("far", "near", 0.0, "accuracy", "a paper"),
    Ordering("near", "not run", 0.0, "accuracy", "a paper"),
]


def test_a_line_passes_within_the_tolerance_and_a_reference_claims_nothing(found):
    lines, _ = found
    assert [line.cells() for line in lines] == [
        ("near", "accuracy", "91.00 ± 1.00", "3", "91.00 ± 1.00", "2.97", PASS),
        ("far", "accuracy", "80.50 ± 0.50", "3", "91.00 ± 1.00", "2.28", FAIL),
        ("reference", "accuracy", "85.00", "1", "", "", ""),
    ]


def test_orderings_are_of_the_seeds_that_both_have(found):
    lines, _ = found
    assert ORDERINGS[0].differences(lines) == {0: 10, 1: 10.5, 2: 11}
    assert ORDERINGS[0].cells(lines) == ("near - far", "10.50 ± 0.50", "3", "5", PASS)
    assert [ordering.verdict(lines) for ordering in ORDERINGS] == [PASS, FAIL, ""]
    assert Ordering("near", "reference", 5.5, "accuracy", "").differences(lines) == {0: 5}


def test_a_count_is_shown_as_one():
    lines = lines_of([row(theirs=Published(1109, 0, 1, slack=0))], {"made": runs("made", 1110.0)})
    assert lines[0].cells() == ("made", "accuracy", "1110", "1", "1109", "0", FAIL)


def test_there_is_a_table_for_each_source_with_chance_and_one_of_orderings(found):
    lines, _ = found
    (title, header, cells), (_, _, compared) = tables(lines, ORDERINGS)
    assert title == "a paper"
    assert header[:4] == ("row", "score", "ours", "n")
    assert cells[-1][:3] == ("chance", "accuracy", "10.00")
    assert len(compared) == 2


def test_the_json_has_each_value_and_names_its_statistics(found):
    lines, made = found
    said = json.loads(json.dumps(to_json(lines, ORDERINGS, made), allow_nan=False))
    score = said["rows"]["near"]["scores"]["accuracy"]
    assert score["values"] == {"0": 90, "1": 91, "2": 92}
    assert (score["mean"], score["sd"], score["n"], score["verdict"]) == (91, 1, 3, PASS)
    assert score["ci95"] == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    assert score["published"] == {"mean": 91.0, "sd": 1.0, "runs": 10, "slack": 1.0}
    assert said["rows"]["near"]["made_with"] == FINGERPRINT
    assert said["rows"]["reference"]["scores"]["accuracy"]["sd"] is None
    assert "Student" in said["statistics"]["ci95"]
    assert [each["verdict"] for each in said["orderings"]] == [PASS, FAIL]


def test_a_page_gets_the_tables_between_its_marks_and_keeps_the_rest(found):
    lines, _ = found
    text = "# Title\n\n<!-- published -->\nold\n<!-- end -->\n\nAfter.\n"
    new = page(text, lines, ORDERINGS)
    assert new.startswith("# Title\n\n<!-- published -->\n\n### A paper\n\n| row | score | ours |")
    assert "| near | accuracy | 91.00 ± 1.00 | 3 | 91.00 ± 1.00 | 2.97 | pass |" in new
    assert "old" not in new
    assert new.endswith("<!-- end -->\n\nAfter.\n")
    assert page(new, lines, ORDERINGS) == new
    other = page("<!-- published: naive -->\n<!-- end -->\n<!-- published: si -->\n<!-- end -->", lines, ORDERINGS)
    mine, none = other.split("<!-- published: si -->")
    assert "| near | accuracy | 91.00 ± 1.00 | 3 | 91.00 ± 1.00 | 2.97 | pass |" in mine
    assert "### A paper" not in mine
    assert "Not run." in none
    assert "near" not in none
    with pytest.raises(ValueError, match="the page must have"):
        page("no marks", lines, ORDERINGS)


def test_rows_by_name_have_their_table_on_any_page_and_one_that_was_not_run_stays(found):
    lines, _ = found
    text = "<!-- published rows: f* -->\nold\n<!-- end -->\n<!-- published rows: other-* -->\nold\n<!-- end -->"
    new = page(text, lines, ORDERINGS)
    first, second = new.split("<!-- published rows: other-* -->")
    assert "| far | accuracy | 80.50 ± 0.50 |" in first
    assert "near" not in first
    assert second == "\nold\n<!-- end -->"


def test_rows_of_another_page_are_not_among_those_that_are_published():
    lines = lines_of([replace(row("near"), page="transfer")], {"near": runs("near", 90)})
    assert "near" not in page("<!-- published -->\n<!-- end -->", lines, ())
    assert "near" in page("<!-- published rows: near -->\n<!-- end -->", lines, ())
