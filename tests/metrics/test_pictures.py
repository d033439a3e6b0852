import itertools
import random

import pytest

from everlearn.metrics import charts, colours


@pytest.mark.parametrize("dark", [False, True])
def test_every_number_can_be_read_on_its_colour(dark):
    for colour in colours.values(dark=dark):
        assert colours.contrast(colour, colours.text_on(colour)) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_can_be_read_on_the_page(dark):
    page = colours.DARK if dark else colours.LIGHT
    for name in ("ink", "soft"):
        assert colours.contrast(page[name], page["paper"]) >= 4.5
    strokes = colours.methods(dark=dark) + colours.ages(dark=dark) + list(colours.changes(dark=dark).values())
    for colour in strokes:
        assert colours.contrast(colour, page["paper"]) >= 3.0


def luminance(colour):
    return colours.contrast(colour, "#000000")


@pytest.mark.parametrize("dark", [False, True])
def test_more_is_further_from_the_page_also_in_grey(dark):
    greys = [luminance(colour) for colour in colours.values(dark=dark)]
    assert greys == sorted(greys, reverse=not dark)
    assert len(set(greys)) == colours.LEVELS


def test_every_level_and_age_has_a_colour():
    assert {charts.value_class(step / 1000) for step in range(1001)} == {f"s{i}" for i in range(colours.LEVELS)}
    assert charts.value_class(1.5) == f"s{colours.LEVELS - 1}"
    assert len({charts.age_colour(i, 20) for i in range(20)}) == 20
    assert len({charts.age_colour(i, 3) for i in range(3)}) == 3
    assert charts.age_colour(0, 1) == "var(--a0)"


def test_no_two_methods_look_alike():
    assert len({charts.method_stroke(i) for i in range(64)}) == 64
    assert len({charts.method_stroke(i)[0] for i in range(8)}) == 8


def test_names_beside_lines_never_overlap_and_stay_on_the_plot():
    draw = random.Random(0)
    for count in range(1, 10):
        for _ in range(50):
            places = sorted(draw.random() ** draw.choice([1, 8]) for _ in range(count))
            moved = charts.spread(places, 0.075)
            assert len(moved) == count
            assert min(moved) >= 0
            assert max(moved) <= 1
            assert all(b - a >= 0.075 - 1e-9 for a, b in itertools.pairwise(moved))


def test_names_that_do_not_touch_are_not_moved():
    assert charts.spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_a_bar_holds_what_was_kept_and_what_was_lost_or_gained():
    lost = charts.change_bar(0.8, 0.2, full=1.0)
    assert 'class="kept" x="0.0" y="0" width="200.0"' in lost
    assert 'class="lost" x="200.0" y="0" width="600.0"' in lost
    gained = charts.change_bar(0.2, 0.8, full=1.0)
    assert 'class="gained" x="200.0" y="0" width="600.0"' in gained
    assert "lost" not in gained
    assert "gained" not in charts.change_bar(0.5, 0.5, full=1.0)


@pytest.mark.parametrize("lowest", [0.0, 0.3, 0.5, 0.51, 0.79, 0.8, 0.95, 1.0])
def test_a_percent_axis_holds_all_values_and_ends_at_a_hundred(lowest):
    axis = charts.percent_axis(lowest)
    assert 0 <= axis.share(lowest) <= 1
    assert axis.ticks[-1][1] == "100 %"
    assert axis.ticks[0][0] == pytest.approx(axis.low)


@pytest.mark.parametrize("highest", [0.0, 1e-6, 0.33, 1.0, 9.99, 12345.0])
def test_an_error_axis_begins_at_zero_and_holds_all_values(highest):
    axis = charts.error_axis(highest)
    assert axis.low == 0
    assert 0 <= axis.share(highest) <= 1


def test_at_most_ten_names_stand_below_a_plot():
    axis = charts.percent_axis(0.0)
    for count in (1, 2, 10, 11, 20, 100, 137):
        text = charts.lines("t", "d", [], axis, [str(i) for i in range(count)], named=False)
        assert text.count("left:") <= 10
