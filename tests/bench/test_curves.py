"""Pictures and tables of transfer: what wins, what would have been proposed, and nothing of rows that are not there."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from everlearn.bench.published import ROWS

_SPEC = spec_from_file_location("curves", Path(__file__).parents[2] / "benchmarks" / "curves.py")
curves = module_from_spec(_SPEC)
_SPEC.loader.exec_module(curves)

MARKS = "\n".join(
    f"<!-- curves: {name} -->\n<!-- end -->\nText." for name in (*curves.PICTURES, *curves.TABLES, "ranking")
)


def entry(name, **scores):
    """A row as the bench writes it, its values one below a mean, it, and one above."""
    values = {score: {"values": {str(s): mean + s - 1 for s in range(3)}} for score, mean in scores.items()}
    made = {"config": {"method": ROWS[name].method}, "versions": {"torch": "2"}}
    return {name: {"scores": values, "made_with": made}}


def tuned(name, accuracy):
    return entry(name, **{"accuracy": accuracy, "at 25 %": accuracy - 5, "at 50 %": accuracy - 2})


def moved(name, target):
    return entry(
        name, **{"target": target, "by im": target - 1, "by source": target, "ORACLE": target + 2, "source": 97}
    )


@pytest.fixture
def rows():
    found = {}
    for shots, means in {
        "-5": (50, 80, 78, 79, 70, 76),
        "-20": (55, 88, 89, 92, 90, 93),
        "": (60, 90, 94, 94.5, 91, 93),
    }.items():
        for strategy, mean in zip(curves.STRATEGIES, means, strict=True):
            found |= tuned(f"hymenoptera-{strategy}{shots}", mean)
    for name, mean in {"source": 60, "seen": 70, "dann": 85, "cdan": 88, "mcc": 80}.items():
        found |= moved(f"m2u-{name}", mean)
    return found | moved("m2mm-source", 50) | moved("m2mm-mcc", 55) | moved("m2mm-cdan-e", 70)


def test_the_best_of_each_number_of_photographs_is_bold(rows):
    head, five, twenty, whole = curves.strategies(rows)
    assert head == (
        "photographs of a class",
        "from scratch",
        "probe",
        "fine-tuning",
        "LP-FT",
        "LP-FT, norms settled",
        "L2-SP",
    )
    assert five == ("5", "50.0 ± 1.0", "**80.0 ± 1.0**", "78.0 ± 1.0", "79.0 ± 1.0", "70.0 ± 1.0", "76.0 ± 1.0")
    assert twenty[-1] == "**93.0 ± 1.0**"
    assert whole[0] == "all, about 122"
    assert [sum("**" in cell for cell in line) for line in (five, twenty, whole)] == [1, 1, 1]


def test_what_is_proposed_is_that_of_the_rules_and_is_held_against_the_best(rows):
    _, *lines = curves.proposals(rows)
    assert lines == [
        ("5 photographs of a class", "probe", "80.0 ± 1.0", "`probe`", "80.0 ± 1.0", "the best"),
        (
            "20 photographs of a class", "L2-SP", "93.0 ± 1.0", "`lpft+l2sp`", "lpft 92.0 ± 1.0, l2sp 93.0 ± 1.0",
            "within one SD",
        ),
        ("122 photographs of a class", "LP-FT", "94.5 ± 1.0", "`finetune`", "94.0 ± 1.0", "within one SD"),
        ("MNIST to USPS, no labels there", "cdan", "88.0 ± 1.0", "`mcc`", "80.0 ± 1.0", "8.0 behind"),
        ("MNIST to MNIST-M, no labels there", "cdan-e", "70.0 ± 1.0", "`cdan`", "70.0 ± 1.0", "the best"),
    ]  # fmt: skip
    del rows["m2u-mcc"]
    assert curves.proposals(rows)[4][4:] == ("", "not measured")


def test_their_table_stands_beside_ours_also_where_we_have_nothing(rows):
    lines = {line[0]: line[1:] for line in curves.beside(rows)}
    assert lines["dann"] == ("85.0 ± 1.0", "84.0 ± 1.0", "87.0 ± 1.0", "91.7", "", "", "", "95.2")
    assert lines["control"] == ("70.0 ± 1.0", "69.0 ± 1.0", "72.0 ± 1.0", "", "", "", "", "")
    assert lines["adda"][3::4] == ("94.5", "98.3")
    assert set(curves.THEIRS) <= {"source", *curves.METHODS}


def drawn(text):
    """The elements of a picture that is well-formed."""
    root = ET.fromstring(text.encode())  # noqa: S314 - our own
    return root, [(each.tag.rpartition("}")[2], each.attrib, "".join(each.itertext())) for each in root.iter()]


@pytest.mark.parametrize("name", ["steps", "shots", "dots"])
def test_a_picture_is_whole_in_light_and_dark_and_its_numbers_can_be_read(name, rows):
    text = curves.PICTURES[name][0](rows)
    root, elements = drawn(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert "prefers-color-scheme:dark" in text
    for tag, attributes, _ in elements:
        if tag in {"circle", "text"}:
            across, down = (
                float(attributes["cx" if tag == "circle" else "x"]),
                attributes.get("cy", attributes.get("y")),
            )
            assert 0 <= across <= width
            assert 0 <= float(down) <= height
    assert any("± 1.0" in words for tag, _, words in elements if tag == "title")
    assert not re.search(r"nan|inf", re.sub(r"<(title|desc|style|text).*?</\1>", "", text))


@pytest.mark.parametrize("name", ["steps", "shots"])
def test_names_of_lines_never_overlap_and_those_with_weights_have_a_panel_of_their_own(name, rows):
    for row, each in rows.items():
        if "hymenoptera" in row:
            for score in each["scores"].values():
                score["values"] = dict.fromkeys("012", 90.0)  # all on one point
    root, _ = drawn(curves.PICTURES[name][0](rows))
    panels = [each for each in root if each.tag.endswith("}g")]
    names = [
        {each.text: float(each.attrib["y"]) for each in panel if each.attrib.get("class") == "name"} for panel in panels
    ]
    for each in root.iter():
        if each.attrib.get("class") == "name":  # a letter is about six wide
            assert float(each.attrib["x"]) + 6.1 * len(each.text) <= curves.WIDTH // 2, each.text
    assert [len(each) for each in names] == [6, 5]
    assert "from scratch" not in names[1]
    for each in names:
        places = sorted(each.values())
        assert all(b - a >= 14.9 for a, b in pairwise(places))


def test_bounds_come_first_and_then_the_methods_the_best_at_the_top(rows):
    root, _ = drawn(curves.dots(rows))
    first, second = (each for each in root if each.tag.endswith("}g"))
    names = [[each.text for each in panel if each.attrib.get("class") == "name"] for panel in (first, second)]
    assert names == [["source only", "control", "cdan", "dann", "mcc"], ["source only", "cdan-e", "mcc"]]


def test_an_axis_has_round_numbers_and_holds_all():
    for values in ([52.0, 96.5], [91.0, 94.2], [99.9, 101.0], [-1.0, 3.0], [50.0, 50.0], [0.0, 100.0]):
        axis = curves.axis(values)
        assert axis.low <= max(min(values), 0) <= min(max(values), 100) <= axis.high
        assert axis.low < axis.high
        assert 2 <= len(axis.ticks) <= 7


def test_the_page_gets_what_there_is_and_keeps_the_rest(rows, tmp_path):
    page = tmp_path / curves.PAGE
    page.write_text(MARKS)
    few = {name: row for name, row in rows.items() if "m2" not in name}
    curves.write(few, {}, tmp_path)
    text = page.read_text()
    assert "![Accuracy on ants and bees over the share of the steps, for five strategies](transfer-steps.svg)" in text
    assert "<!-- curves: dots -->\n<!-- end -->\nText." in text  # no row, no picture
    assert {each.name for each in tmp_path.iterdir()} == {curves.PAGE, "transfer-steps.svg", "transfer-shots.svg"}
    curves.write(rows, {}, tmp_path)
    whole = page.read_text()
    assert (tmp_path / "transfer-dots.svg").is_file()
    assert whole.count("Text.") == MARKS.count("Text.")
    assert "| 5 | 50.0 ± 1.0 | **80.0 ± 1.0** |" in whole
    assert "torch 2." in whole
    curves.write(rows, {}, tmp_path)
    assert page.read_text() == whole
    page.write_text("no marks")
    with pytest.raises(ValueError, match="the page must have <!-- curves: steps -->, and <!-- end --> after it"):
        curves.write(rows, {}, tmp_path)


def test_files_of_the_bench_are_read_together_and_others_are_refused(rows, tmp_path):
    names = sorted(rows)
    for place, part in enumerate((names[::2], names[1::2])):
        (tmp_path / f"{place}.json").write_text(json.dumps({"rows": {name: rows[name] for name in part}}))
    (tmp_path / "2.json").write_text(json.dumps(RANKS))
    assert curves.read([tmp_path / f"{place}.json" for place in range(3)]) == (rows, RANKS)
    assert curves.read([tmp_path / "0.json"])[1] == {}
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other.json has no rows; expected what `everlearn bench"):
        curves.read([tmp_path / "other.json"])


def test_ranks_have_their_tables(tmp_path):
    page = tmp_path / curves.PAGE
    page.write_text(MARKS)
    curves.write({}, RANKS, tmp_path)
    text = page.read_text()
    assert "| `logme` | 1.00 | 0.20 | 0.60 |\n| rank | 0.50 | 0.50 | 0.50 |" in text
    assert "| good | 95.0 | 80.0 |\n| bad | 60.0 | 70.0 |" in text
    assert "a device" in text
    assert "<!-- curves: strategies -->\n<!-- end -->" in text


RANKS = {
    "about": {"device": "a device"},
    "found": {
        "ants": {"bad": {"accuracy": 0.6}, "good": {"accuracy": 0.95}},
        "usps": {"bad": {"accuracy": 0.7}, "good": {"accuracy": 0.8}},
    },
    "kendall": {"logme": {"ants": 1.0, "usps": 0.2}, "rank": {"ants": 0.5, "usps": 0.5}},
}


def test_the_marks_are_on_the_page():
    text = (Path(__file__).parents[2] / "docs" / curves.PAGE).read_text()
    for name in (*curves.PICTURES, *curves.TABLES, "ranking"):
        assert re.search(f"<!-- curves: {name} -->\n.*?<!-- end -->", text, re.DOTALL)
