"""The pictures of a report: fragments of HTML and SVG, written by hand.

A plot is stretched to the width that it finds, and its labels are text of the page around it: so it is sharp
and readable on a phone and on a wide screen, and needs no script.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from everlearn.metrics.colours import AGES, LEVELS, METHODS

DASHES = ("", "7 4", "2 4", "10 4 2 4", "14 5", "5 2", "1 3", "12 3 3 3")


@dataclass(frozen=True)
class Line:
    """A line: its name, its points (x, y) from left to right, and its colour, dashes and width as CSS."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashes: str = ""
    width: float = 1.75


@dataclass(frozen=True)
class Axis:
    """A vertical axis: its ends, and the places and words of its labels."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """How far up the axis a value is, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def percent_axis(lowest: float) -> Axis:
    """An axis of percent from 0 or, where all values are above 50 %, from the full ten below the lowest.

    >>> [text for _, text in percent_axis(0.72).ticks]
    ['70 %', '80 %', '90 %', '100 %']
    """
    low = min(math.floor(lowest * 10) / 10, 0.9) if lowest > 0.5 else 0.0
    step = 0.02 if low >= 0.9 else 0.05 if low >= 0.8 else 0.1 if low >= 0.5 else 0.25
    ticks = [low + step * tick for tick in range(round((1 - low) / step) + 1)]
    return Axis(low, 1.0, [(tick, f"{100 * tick:.0f} %") for tick in ticks])


def error_axis(highest: float) -> Axis:
    """An axis of errors from 0 to a round number above the highest.

    >>> error_axis(0.33).high
    0.4
    """
    unit = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 1.0
    high = next(unit * factor for factor in (1, 2, 4, 5, 10) if unit * factor >= highest)
    return Axis(0.0, high, [(high * tick / 4, f"{high * tick / 4:.3g}") for tick in range(5)])


def lines(
    title: str, description: str, entries: Sequence[Line], axis: Axis, marks: Sequence[str], *, named: bool
) -> str:
    """Lines over time. x counts experiences: experience i, called `marks[i]`, is learned from i to i + 1.

    `named` puts the names of the lines beside their ends.
    """
    count = len(marks)
    every = math.ceil(count / 10)
    return frame(
        title,
        description,
        entries,
        axis,
        count,
        begins="".join(_rule((index / count, 0), (index / count, 1), "begin") for index in range(1, count)),
        below=[((i + 0.5) / count, marks[i]) for i in range(0, count, every)],
        room=every / count,
        named=named,
    )


def frame(
    title: str,
    description: str,
    entries: Sequence[Line],
    axis: Axis,
    length: float,
    *,
    begins: str,
    below: Sequence[tuple[float, str]],
    room: float,
    named: bool,
    above: str = "",
    over: str = "",
) -> str:
    """The lines and all around them: x goes from 0 to `length`, `begins` are drawn behind the lines.

    `below` are words at places from 0 to 1, each of them at most `room` wide; `above` is laid over the plot, and
    `over` says what x counts.
    """
    heights = [axis.share(value) for value, _ in axis.ticks]
    grid = "".join(_rule((0, height), (1, height), "grid") for height in heights)
    paths = "".join(_path(line, axis, length) for line in entries)
    left = "".join(
        f'<span style="top:{_percent(1 - height)}">{text}</span>'
        for height, (_, text) in zip(heights, axis.ticks, strict=True)
    )
    words = "".join(
        f'<span style="left:{_percent(place)};max-width:{_percent(room)}">{escape(word)}</span>'
        for place, word in below
    )
    counted = f'<div class="over" aria-hidden="true">{escape(over)}</div>' if over else ""
    return (
        f'<div class="plot"><div class="ys" aria-hidden="true">{left}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{grid}{begins}{paths}</svg>{above}"
        f'<div class="ends">{_ends(entries, axis) if named else ""}</div>'
        f'{counted}<div class="xs" aria-hidden="true">{words}</div></div>'
    )


def method_stroke(index: int) -> tuple[str, str]:
    """The colour and the dashes of method `index`; no two of the first 64 have both in common."""
    return f"var(--m{index % METHODS})", DASHES[(index + index // METHODS) % len(DASHES)]


def age_colour(index: int, count: int) -> str:
    """The colour of experience `index` of `count`."""
    return f"var(--a{round(index / max(count - 1, 1) * (AGES - 1))})"


def age_key() -> str:
    """What the colours of experiences mean, where there are too many for names."""
    steps = "".join(f'<i style="background:var(--a{step})"></i>' for step in range(AGES))
    mean = f"<span>{_sample('var(--soft)', '')}average</span>"
    return f'<p class="key"><span>first experience<span class="strip">{steps}</span>last</span>{mean}</p>'


def key(entries: Sequence[Line]) -> str:
    """The names of lines."""
    names = "".join(f"<span>{_sample(line.colour, line.dashes)}{escape(line.name)}</span>" for line in entries)
    return f'<p class="key">{names}</p>'


def change_key() -> str:
    """What the colours of a `change_bar` mean."""
    chip = '<svg class="chip" aria-hidden="true"><rect class="{0}" width="12" height="12"/></svg>{0}'
    names = "".join(f"<span>{chip.format(name)}</span>" for name in ("kept", "lost", "gained"))
    return f'<p class="key">{names}</p>'


def value_class(share: float) -> str:
    """The class of a cell whose value is `share` of the full scale.

    >>> value_class(0.52)
    's10'
    """
    return f"s{min(max(round(share * (LEVELS - 1)), 0), LEVELS - 1)}"


def change_bar(before: float, after: float, *, full: float) -> str:
    """A bar of what is kept, followed by what was lost or gained, out of `full`."""
    kept, end = min(before, after) / full, max(before, after) / full
    rest = "lost" if after < before else "gained"
    return _bar(_part("kept", 0, kept) + (_part(rest, kept, end) if end > kept else ""))


def plain_bar(value: float, *, full: float) -> str:
    """A bar of `value` out of `full`."""
    return _bar(_part("kept", 0, value / full))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places in [0, 1], moved as little as needed so that neighbours are `gap` apart.

    >>> [round(place, 3) for place in spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    groups: list[tuple[float, int]] = []  # the mean of some places that touch, and their number
    for place in places:
        mean, count = place, 1
        while groups and _first(mean, count, gap) < _last(*groups[-1], gap) + gap - 1e-9:
            before, others = groups.pop()
            mean, count = (before * others + mean * count) / (others + count), others + count
        groups.append((mean, count))
    return [_first(mean, count, gap) + gap * index for mean, count in groups for index in range(count)]


def _first(mean: float, count: int, gap: float) -> float:
    """Where a group begins, pushed inside [0, 1]."""
    size = gap * (count - 1)
    return min(max(mean - size / 2, 0.0), max(1.0 - size, 0.0))


def _last(mean: float, count: int, gap: float) -> float:
    return _first(mean, count, gap) + gap * (count - 1)


def _path(line: Line, axis: Axis, length: float) -> str:
    places = [(1000 * x / length, 1000 * (1 - axis.share(y))) for x, y in line.points]
    if not places:
        return ""
    few, many = len(places) <= 10, len(places) > 40
    # a round cap on a line of no length is a dot that stretching does not deform
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (places[-1:] if many else places))
    size = line.width + (3.5 if few else 2)
    course = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = f";stroke-dasharray:{line.dashes}" if line.dashes else ""
    return (
        f'<g style="stroke:{line.colour}"><title>{escape(line.name)}</title>'
        f'<path class="line" style="stroke-width:{line.width}{dashes}" d="M{course}"/>'
        f'<path class="dots" style="stroke-width:{size}" d="{dots}"/></g>'
    )


def _ends(entries: Sequence[Line], axis: Axis) -> str:
    """The names of lines beside their last points, moved apart where they would overlap."""
    drawn = sorted((line for line in entries if line.points), key=lambda line: -line.points[-1][1])
    places = spread([1 - axis.share(line.points[-1][1]) for line in drawn], 0.075)
    return "".join(
        f'<span style="top:{_percent(place)}" title="{escape(line.name)}">'
        f'<i style="background:{line.colour}"></i>{escape(line.name)}</span>'
        for line, place in zip(drawn, places, strict=True)
    )


def _sample(colour: str, dashes: str) -> str:
    style = f"stroke:{colour};stroke-dasharray:{dashes or 'none'}"
    return f'<svg class="sample" aria-hidden="true"><path style="{style}" d="M0 6h26"/></svg>'


def _rule(start: tuple[float, float], end: tuple[float, float], name: str) -> str:
    (x1, y1), (x2, y2) = start, end
    course = f"M{1000 * x1:.1f} {1000 * (1 - y1):.1f}L{1000 * x2:.1f} {1000 * (1 - y2):.1f}"
    return f'<path class="{name}" d="{course}"/>'


def _bar(parts: str) -> str:
    return f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{parts}</svg>'


def _part(name: str, start: float, end: float) -> str:
    place = f'x="{1000 * start:.1f}" y="0" width="{1000 * (end - start):.1f}" height="10"'
    return f'<rect class="{name}" {place}/>'


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
