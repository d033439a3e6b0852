"""A picture of values over a stream: how well policies did as rows came, and what happened meanwhile."""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from statistics import quantiles
from typing import Literal

from everlearn.metrics import charts
from everlearn.metrics.charts import Axis, Line

NAMED = 9
"""How many curves can have their names beside them."""

LISTED = 100
"""How many events are listed below the picture."""

_LETTER = 0.016
"""How much of the width of a plot a letter takes, where two plots stand side by side."""


def timeline(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    unit: Literal["share", "number"],
    events: Sequence[tuple[float, str]] = (),
    x: str = "rows",
    baselines: Collection[str] = (),
) -> str:
    """Curves by name, as a fragment of HTML for a page with the style `everlearn.metrics.style.sheet()`.

    A curve is points (x, value) from left to right; what is not finite is left out. `unit` "share" writes values in
    percent. `events` are vertical lines at an x, with a word each. `baselines` are names of curves to be drawn in grey.
    A few values far from all others, as a model that has seen nothing gives them, are cut off, and a note says so.

    >>> "91.0 %" in timeline({"mlp": [(100, 0.8), (200, 0.91)]}, title="Accuracy", unit="share")
    True
    """
    known = {name: [(a, b) for a, b in points if math.isfinite(b)] for name, points in curves.items()}
    places = [a for points in known.values() for a, _ in points]
    if not places:
        return ""
    values = [b for points in known.values() for _, b in points]
    low, high = _bounds(values)
    axis = _axis(low, high, unit)
    first, last = min(places), max(places)
    first = 0.0 if 0 < first < 0.1 * (last - first) else first
    length = last - first or 1.0
    entries = _lines(known, axis, first, unit, baselines)
    marks = sorted((at, word) for at, word in events if first <= at <= last)
    happened = [((at - first) / length, word) for at, word in marks]
    ticks = _ticks(first, last)
    drawn = charts.frame(
        title,
        f"{len(entries)} curves over {x} {_plain(first)} to {_plain(last)}; at the end: "
        f"{'; '.join(line.name for line in entries)}.",
        entries,
        axis,
        length,
        begins="".join(
            f'<path class="event" d="M{1000 * at:.1f} 0V1000"><title>{escape(word)}</title></path>'
            for at, word in happened
        ),
        below=[((at - first) / length, _plain(at)) for at in ticks],
        room=1 / max(2, len(ticks)),
        named=len(entries) <= NAMED,
        over=x,
        above=f'<div class="events" aria-hidden="true">{_words(happened)}</div>' if happened else "",
    )
    key = charts.key(entries)
    below = f'<div class="instead">{key}</div>' if len(entries) <= NAMED else key
    notes = _cut(values, axis, unit) + _listed(marks, x)
    return f'<figure class="timeline"><h3>{escape(title)}</h3>{drawn}{below}{notes}</figure>'


def number_axis(low: float, high: float, unit: Literal["share", "number"] = "number") -> Axis:
    """An axis with about five round numbers that holds `low` and `high`, and 0 unless all values are far from it.

    >>> [text for _, text in number_axis(3, 17).ticks]
    ['0', '5', '10', '15', '20']
    >>> [text for _, text in number_axis(-0.12, 0.4, "share").ticks]
    ['−20 %', '0 %', '20 %', '40 %']
    """
    low = min(low, 0.0) if low < (high - low) else low
    high = max(high, 0.0) if -high < (high - low) else high
    step = _step((high - low) or abs(high) or 1.0, 4)
    start = math.floor(low / step + 1e-9)
    count = max(1, math.ceil(high / step - 1e-9) - start)
    ticks = [step * (start + tick) for tick in range(count + 1)]
    return Axis(ticks[0], ticks[-1], [(tick, _said(tick, unit, step)) for tick in ticks])


def _axis(low: float, high: float, unit: Literal["share", "number"]) -> Axis:
    if unit == "share" and 0.5 < low <= high <= 1:
        return charts.percent_axis(low)
    return number_axis(low, high, unit)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value to be shown: those far outside of nearly all others are not."""
    low, high = min(values), max(values)
    if len(values) < 20:
        return low, high
    cuts = quantiles(values, n=20)
    spread = cuts[-1] - cuts[0]
    if not spread > 0:
        return low, high
    return max(low, cuts[0] - 2 * spread), min(high, cuts[-1] + 2 * spread)


def _lines(
    known: Mapping[str, Sequence[tuple[float, float]]],
    axis: Axis,
    first: float,
    unit: Literal["share", "number"],
    baselines: Collection[str],
) -> list[Line]:
    entries, policies = [], 0
    for name, points in known.items():
        if not points:
            continue
        shown = f"{_said(points[-1][1], unit)} {name}"
        inside = [(at - first, min(max(value, axis.low), axis.high)) for at, value in points]
        if name in baselines:
            entries.append(Line(shown, inside, "var(--soft)", width=1.25))
        else:
            entries.append(Line(shown, inside, *charts.method_stroke(policies)))
            policies += 1
    return entries


def _words(happened: Sequence[tuple[float, str]]) -> str:
    """The words of events above the plot, but for those that would run into the one before: a list has them all."""
    shown, free = [], 0.0
    for at, word in happened:
        size = _LETTER * (len(word) + 2)
        start = at if at + size <= 1 else at - size
        if start >= free:
            free = start + size
            side = "" if at + size <= 1 else ";transform:translateX(-100%)"
            shown.append(f'<span style="left:{100 * at:.2f}%{side}">{escape(word)}</span>')
    return "".join(shown)


def _listed(marks: Sequence[tuple[float, str]], x: str) -> str:
    if not marks:
        return ""
    rows = "".join(f'<tr><td>{_plain(at)}</td><th scope="row">{escape(word)}</th></tr>' for at, word in marks[:LISTED])
    more = f"<p>and {len(marks) - LISTED} more</p>" if len(marks) > LISTED else ""
    name = "1 event" if len(marks) == 1 else f"{len(marks)} events"
    return (
        f'<details><summary>{name}</summary><table class="happened"><thead><tr><th scope="col">{escape(x)}</th>'
        f'<th scope="col">event</th></tr></thead><tbody>{rows}</tbody></table>{more}</details>'
    )


def _cut(values: Sequence[float], axis: Axis, unit: Literal["share", "number"]) -> str:
    """What the picture does not show: values beyond the ends of the axis."""
    shares = [axis.share(value) for value in values]  # an end is a sum of steps, and its last digit may be another
    below, above = sum(share < -1e-9 for share in shares), sum(share > 1 + 1e-9 for share in shares)
    ends = [(count, _said(end, unit)) for count, end in ((below, min(values)), (above, max(values))) if count]
    if not ends:
        return ""
    said = " and ".join(f"{count} value{'s' if count > 1 else ''} as far as {end}" for count, end in ends)
    return f'<p class="note">Drawn at the edge: {said}.</p>'


def _ticks(first: float, last: float) -> list[float]:
    """Round numbers from `first` to `last`, the ends included only where they are round."""
    step = _step((last - first) or 1.0, 5)
    begin, end = math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9)
    return [step * place for place in range(begin, end + 1)] or [first]


def _step(span: float, parts: int) -> float:
    """The smallest round number of which at most `parts`, about, fit into the span."""
    unit = 10.0 ** math.floor(math.log10(span / parts))
    return next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * parts >= span * 0.999)


def _said(value: float, unit: Literal["share", "number"], step: float | None = None) -> str:
    """A value in words; with a step, as short as its multiples can be."""
    sign = "−" if value < 0 else ""  # noqa: RUF001 (a minus sign is meant)
    if unit == "share":
        return f"{sign}{100 * abs(value):.1f} %" if step is None else f"{sign}{_plain(100 * abs(value))} %"
    if step is None:
        size = abs(value)
        return sign + (f"{size:,.0f}" if size >= 1000 else f"{size:.3g}")
    return sign + _plain(abs(value))


def _plain(value: float) -> str:
    """A round number.

    >>> _plain(12000), _plain(0.30000000000000004)
    ('12,000', '0.3')
    """
    text = f"{value:,.6f}".rstrip("0").rstrip(".") if 1e-4 <= abs(value) < 1e12 or value == 0 else f"{value:.4g}"
    return text or "0"
