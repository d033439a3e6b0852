"""A picture of a stream shows all that it is given, or says what it leaves out."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from everlearn.metrics.style import sheet
from everlearn.metrics.timeline import LISTED, number_axis, timeline

CURVE = [(x, 0.6 + x / 1000) for x in range(100)]


def parsed(text):
    return ET.fromstring(text)  # noqa: S314 (our own text)


def drawn(text):
    """The points of the curves, as they stand in the plot of 1000 by 1000."""
    paths = [path.get("d") for path in parsed(text).iter("path") if path.get("class") == "line"]
    return [[tuple(map(float, point.split())) for point in path[1:].split("L")] for path in paths]


@pytest.mark.parametrize("unit", ["share", "number"])
def test_it_is_well_formed_and_escapes_what_users_say(unit):
    text = timeline({"<b>&": CURVE}, title='a "<title>', unit=unit, events=[(5, "<drift>")], x="<rows>")
    assert parsed(text).tag == "figure"
    assert "<b>" not in text.replace("<b>&amp;", "")
    assert "<drift>" not in text


def test_time_goes_to_the_right_and_more_is_higher():
    ((points),) = drawn(timeline({"a": CURVE}, title="t", unit="share"))
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[0][0] == 0
    assert points[-1][0] == 1000


def test_what_is_not_finite_is_left_out():
    (points,) = drawn(timeline({"a": [(0, math.nan), *CURVE[1:], (100, math.inf)]}, title="t", unit="share"))
    assert len(points) == 99


def test_without_a_point_there_is_no_picture():
    assert timeline({}, title="t", unit="share") == ""
    assert timeline({"a": [], "b": [(0, math.nan)]}, title="t", unit="share") == ""


def test_one_point_and_one_value_can_be_drawn():
    for unit in ("share", "number"):
        for value in (0.0, 1.0, 0.3, -2.0, 1e9):
            for points in ([(5, value)], [(5, value), (9, value)]):
                for curve in drawn(timeline({"a": points}, title="t", unit=unit)):
                    assert all(0 <= x <= 1000 and 0 <= y <= 1000 for x, y in curve)


def test_events_stand_at_their_rows_and_all_are_listed():
    events = [(20 + i / 100, f"drift {i}") for i in range(50)] + [(5000, "later than the curves")]
    text = timeline({"a": CURVE}, title="t", unit="share", events=events)
    places = [path.get("d") for path in parsed(text).iter("path") if path.get("class") == "event"]
    assert len(places) == 50
    assert places[0] == f"M{1000 * 20 / 99:.1f} 0V1000"
    assert "50 events" in text
    listed = text[text.index("<details>") :]
    assert all(f"drift {i}<" in listed for i in range(50))
    assert "later" not in text
    many = timeline({"a": CURVE}, title="t", unit="share", events=[(1, "e")] * (LISTED + 7))
    assert "and 7 more" in many


def test_words_of_events_do_not_run_into_each_other():
    events = [(x, "page-hinkley: lr x 3") for x in range(0, 100, 3)]
    text = timeline({"a": CURVE}, title="t", unit="share", events=events)
    above = text[text.index('class="events"') : text.index('class="ends"')]
    places = [float(place) for place in re.findall(r"left:([0-9.]+)%", above)]
    assert 1 <= len(places) <= 4
    assert places == sorted(places)


def test_values_far_from_all_others_are_drawn_at_the_edge_and_a_note_says_so():
    curve = [(0, 1e6), (1, -1e6), *((x, math.sin(x)) for x in range(2, 100))]
    text = timeline({"a": curve}, title="t", unit="number")
    (points,) = drawn(text)
    assert points[0][1] == 0
    assert points[1][1] == 1000
    assert "1 value as far as \N{MINUS SIGN}1,000,000 and 1 value as far as 1,000,000" in text
    assert len({round(y) for _, y in points}) > 20
    assert "Drawn at the edge" not in timeline({"a": CURVE}, title="t", unit="number")


def test_baselines_are_grey_and_do_not_take_a_colour():
    text = timeline({"none": CURVE, "ours": CURVE}, title="t", unit="share", baselines=["none"])
    colours = [group.get("style") for group in parsed(text).iter("g")]
    assert colours == ["stroke:var(--soft)", "stroke:var(--m0)"]


def test_many_curves_have_a_key_and_few_have_names_beside_them():
    few = timeline({str(i): CURVE for i in range(3)}, title="t", unit="share")
    many = timeline({str(i): CURVE for i in range(30)}, title="t", unit="share")
    assert few.count("69.9 % 1<") > many.count("69.9 % 1<") > 0
    assert '<div class="ends"></div>' in many


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 4), (5, 5), (0, 0), (1000, 1010), (-2e-6, 1e-6), (-9, -8), (3, 17)]
)
def test_an_axis_of_numbers_holds_them_with_few_round_ticks(low, high):
    axis = number_axis(low, high)
    assert axis.low <= low <= high <= axis.high
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 7
    assert axis.low <= 0 <= axis.high or (low > high - low or -high > high - low)


def test_the_sheet_has_the_rules_of_all_its_classes():
    text = timeline({"a": CURVE}, title="t", unit="share", events=[(5, "drift")])
    for name in {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()} - {"dots", "line"}:
        assert f".{name}" in sheet(), name
