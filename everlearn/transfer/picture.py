"""The picture of a choice: each score against what a base costs, as SVG, and the page around it."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from everlearn.metrics.charts import method_stroke, spread
from everlearn.metrics.colours import variables
from everlearn.metrics.figures import scroll, section
from everlearn.metrics.style import sheet
from everlearn.transfer.scores import CAUTION

if TYPE_CHECKING:
    from everlearn.transfer.choice import Candidate, Choice

TITLES = {"logme": "LogME", "h-score": "H-score", "n-leep": "N-LEEP", "knn": "kNN probe", "ridge": "ridge probe"}

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BELOW = 62, 132, 34, 44
_RULES = """
.costs{background:var(--paper)}
.glance th,.glance td{padding-left:1rem}
.glance thead th{overflow-wrap:normal}
.costs text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
.costs .heading{font-size:14px;font-weight:600;fill:var(--ink)}
.costs .name{fill:var(--ink)}
.costs path{fill:none;stroke:var(--line);stroke-width:1}
.costs .lead{stroke:var(--soft);stroke-width:.75;opacity:.6}
.costs circle{stroke:var(--paper);stroke-width:1.5}
"""
_NARROW = ".panels{overflow-x:auto}.panels .costs{min-width:720px}"
"""On a phone the panels are moved sideways, as the table is: smaller, nobody could read them."""


def svg(choice: "Choice") -> str:
    """One panel for each score: up is better, left is quicker. In light and dark, with no script."""
    style = (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}{_RULES.strip()}"
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_drawn(choice, f"<style>{style}</style>")}\n'


def page(choice: "Choice") -> str:
    """The whole page. Every string that a user gave is escaped."""
    head, *rows = choice.cells()
    best = {name: max(one.scores[name] for one in choice.candidates) for name in choice.scores}
    lines = []
    for one, row in zip(choice.candidates, rows, strict=True):
        marks = {i + 2 for i, name in enumerate(choice.scores) if one.scores[name] == best[name]}
        data = "".join(
            f'<td class="best">{escape(cell)}</td>' if i in marks else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(row[1:], 1)
        )
        lines.append(f'<tr><th scope="row">{escape(row[0])}</th>{data}</tr>')
    named = "".join(f'<th scope="col">{escape(name)}</th>' for name in head[1:])
    table = scroll(
        "The bases",
        f'<table class="glance"><thead><tr><td></td>{named}</tr></thead><tbody>{"".join(lines)}</tbody></table>',
    )
    looked = f"On {choice.rows:,} of {choice.of:,} labelled rows of {choice.classes:,} classes. {choice.machine}."
    note = (
        f"{looked} Rank: the mean place over the scores. MB: weights, and what the layers give out for one row. "
        "Licence: of the weights."
    )
    title = "Which base to begin with"
    sections = (
        section("The bases, the best first", escape(note), table),
        section(
            "Score against cost", "Up is better, left is quicker.", f'<div class="panels">{_drawn(choice, "")}</div>'
        ),
        section("What this is worth", escape(CAUTION), " "),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{sheet()}{_RULES.strip()}{_NARROW}</style></head>'
        f'<body><header><h1>{title}</h1><p class="lead">{escape(choice.summary())}</p></header>'
        f"<main>{''.join(sections)}</main><footer>Made by everlearn.</footer></body></html>\n"
    )


def _drawn(choice: "Choice", style: str) -> str:
    columns = min(2, len(choice.scores))
    lines = math.ceil(len(choice.scores) / columns)
    panels = "".join(
        f'<g transform="translate({_WIDTH * (i % columns)} {_HEIGHT * (i // columns)})">{_panel(choice, name)}</g>'
        for i, name in enumerate(choice.scores)
    )
    width, height = _WIDTH * columns, _HEIGHT * lines
    told = "; ".join(f"{one.name}: {one.latency:.3g} ms" for one in choice.candidates)
    return (
        f'<svg class="costs" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="100%" style="max-width:{width}px" role="img" aria-label="Score against cost">'
        f"<title>Score against cost</title><desc>{escape(told)}</desc>{style}{panels}</svg>"
    )


def _panel(choice: "Choice", score: str) -> str:
    """One score, by the time a row takes (logarithmic)."""
    low, high, ticks = _scale([one.scores[score] for one in choice.candidates])
    first, last, marks = _decades([one.latency for one in choice.candidates])
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BELOW

    def x(one: "Candidate") -> float:
        return _LEFT + wide * (math.log10(one.latency) - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + tall * (1 - (value - low) / (high - low))

    parts = [f'<text class="heading" x="{_LEFT}" y="20">{escape(TITLES.get(score, score))}</text>']
    for tick in ticks:
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}h{wide}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for mark in marks:
        at = _LEFT + wide * (math.log10(mark) - first) / (last - first)
        parts.append(f'<text x="{at:.1f}" y="{_TOP + tall + 18}" text-anchor="middle">{_number(mark)}</text>')
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{_TOP + tall + 36}" text-anchor="middle">ms a row</text>')
    order = sorted(range(len(choice.candidates)), key=lambda i: y(choice.candidates[i].scores[score]))
    heights = spread([(y(choice.candidates[i].scores[score]) - _TOP) / tall for i in order], 15 / tall)
    for i, height in zip(order, heights, strict=True):
        one = choice.candidates[i]
        colour, across, down, beside = method_stroke(i)[0], x(one), y(one.scores[score]), _TOP + height * tall
        parts.append(f'<path class="lead" d="M{across + 6:.1f} {down:.1f}L{_LEFT + wide + 6} {beside:.1f}"/>')
        parts.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="6" style="fill:{colour}">'
            f"<title>{escape(one.name)}: {one.scores[score]:.4g}, {one.latency:.3g} ms a row</title></circle>"
        )
        name = one.name.rpartition(":")[2]
        short = name if len(name) <= 18 else f"{name[:17]}…"
        parts.append(f'<text class="name" x="{_LEFT + wide + 10}" y="{beside + 4:.1f}">{escape(short)}</text>')
    return "".join(parts)


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The ends of an axis that holds all values, and three to six round numbers on it.

    >>> _scale([0.12, 0.57])
    (0.1, 0.6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    """
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    unit = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(unit * factor for factor in (1, 2, 5, 10) if (high - low) / (unit * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f"{step * tick:.10g}") for tick in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _decades(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The logarithms of the ends of a logarithmic axis that holds all values, and 1, 2 or 5 times a power of ten on it.

    >>> _decades([0.3, 4.0])[2]
    [0.2, 0.5, 1.0, 2.0, 5.0]
    """
    steps = [factor * 10.0**power for power in range(-9, 10) for factor in (1, 2, 5)]
    first = max(step for step in steps if step <= min(values))
    last = min(step for step in steps if step >= max(values))
    if first == last:
        last = next(step for step in steps if step > first)
    within = [float(f"{step:.6g}") for step in steps if first <= step <= last]
    shown = within if len(within) <= 7 else [step for step in within if math.log10(step).is_integer()]
    return math.log10(first), math.log10(last), shown


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
