"""The picture of the weights of exits: areas that add up, in the order of depth, with names that are escaped."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from everlearn.metrics.depths import svg, weights

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["input", "relu1", "relu2 <deep>"]
MOMENTS = [(0, [1 / 3, 1 / 3, 1 / 3]), (500, [0.5, 0.3, 0.2]), (1000, [0.1, 0.88, 0.02])]


def areas(picture):
    """For each area its upper and its lower edge, as lists of (x, y)."""
    found = []
    for path in ET.fromstring(picture).iter(f"{SVG}path"):  # noqa: S314 (our own)
        if path.get("class") == "area":
            numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d"))]
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            found.append((points[: len(points) // 2], points[: len(points) // 2 - 1 : -1]))
    return found


def test_areas_lie_on_each_other_and_add_up_to_all():
    found = areas(weights("weights", NAMES, MOMENTS))
    assert len(found) == 3
    for (upper, _), (_, lower) in pairwise(found):
        assert upper == lower
    top, bottom = found[-1][0], found[0][1]
    assert len({y for _, y in top}) == len({y for _, y in bottom}) == 1


def test_the_height_of_an_area_is_the_weight():
    found = areas(weights("weights", NAMES, MOMENTS))
    whole = found[0][1][0][1] - found[-1][0][0][1]
    for moment, (_, shares) in enumerate(MOMENTS):
        for (upper, lower), share in zip(found, shares, strict=True):
            assert (lower[moment][1] - upper[moment][1]) / whole == pytest.approx(share, abs=1e-3)


def test_words_are_escaped_and_small_exits_are_counted():
    picture = svg("a < b", NAMES, MOMENTS, [(500, "C2 & more")])
    root = ET.fromstring(picture.split("\n", 1)[1])  # noqa: S314 (our own)
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert {"a < b", "relu1, 88 %", "input, 10 %", "C2 & more", "1,000", "100 %"} <= set(texts)
    assert "<deep>" not in picture
    many = weights("many", [f"layer {i}" for i in range(20)], [(0, [0.05] * 20)])
    assert ">18 others, 90 %<" in many
    assert ">layer 19, 5 %<" in many


def test_long_histories_are_thinned_out_and_keep_their_ends():
    long = [(row, [0.5 + row / 40_000, 0.5 - row / 40_000]) for row in range(10_000)]
    ((upper, _), _) = areas(weights("weights", ["a", "b"], long))
    assert len(upper) < 250
    assert upper[0][0] < upper[-1][0]
    assert len(weights("weights", ["a", "b"], long)) < 20_000


def test_one_moment_is_a_picture_too():
    assert len(areas(weights("weights", NAMES, MOMENTS[:1]))) == 3


def test_moments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a weight for each of the 3 exits"):
        weights("weights", NAMES, [(0, [0.5, 0.5])])
    with pytest.raises(ValueError, match="there must be one moment"):
        weights("weights", NAMES, [])
