"""Depth, drawn: the error of nets of several depths on a stream, and of one that hedges, and what its exits weigh.

    everlearn bench 'depth*' --out depth.json
    python benchmarks/depth.py depth.json                             the table, in the terminal
    python benchmarks/depth.py depth.json --weights 100000 --docs docs   the same, and pictures, into online-results.md

It reads what `everlearn bench` has written. `--weights ROWS` makes runs of its own, one with each rule: seed 0, so many
rows. A part of the page for which there is nothing stays as it is.
"""

import argparse
import json
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from everlearn.bench.depth import PARTS, Depth, part_name
from everlearn.bench.published.depth import LAYERS, RULES, STREAMS
from everlearn.bench.statistics import Sample
from everlearn.metrics.charts import method_stroke, spread
from everlearn.metrics.colours import variables
from everlearn.metrics.depths import svg

PAGE = "online-results.md"
TITLES = {"": "The concept drifts", "-still": "One concept"}
THIRDS = ("first third", "second third", "last third")

Rows = dict[str, dict[str, Any]]


def contenders() -> dict[str, str]:
    """The ends of the names of rows, and what they are called."""
    named = {f"-{layers}": f"{layers} layers" if layers else "linear" for layers in LAYERS}
    return named | {f"-hedge-{rule}": f"hedge, {rule}" for rule in RULES}


def sample(rows: Rows, name: str, scores: list[str]) -> Sample | None:
    """The mean of some scores, over seeds; None where the row is not there."""
    if name not in rows:
        return None
    values = [rows[name]["scores"][score]["values"] for score in scores]
    return Sample.of([fmean(each[seed] for each in values) for seed in values[0]])


def table(rows: Rows, words: str) -> list[tuple[str, ...]]:
    """Errors in %, of all rows and of each third, the least of each in bold; a header first."""
    four = PARTS // 3
    asked = [["error"], *([part_name(four * third + i) for i in range(four)] for third in range(3))]
    found = {}
    for end, title in contenders().items():
        if cells := [one for scores in asked if (one := sample(rows, f"depth{words}{end}", scores)) is not None]:
            found[title] = cells
    if not found:
        return []
    least = [min(cells[place].mean for cells in found.values()) for place in range(len(asked))]
    lines = []
    for title, cells in found.items():
        told = [f"**{_told(one)}**" if one.mean == best else _told(one) for one, best in zip(cells, least, strict=True)]
        lines.append((title, *told))
    return [(TITLES[words], "all rows, %", *THIRDS), *lines]


def _told(one: Sample) -> str:
    return f"{one.mean:.1f}" if one.sd is None else f"{one.mean:.1f} ± {one.sd:.1f}"


def markdown(cells: list[tuple[str, ...]]) -> str:
    """The first column are words, all others numbers."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ("---", *["---:"] * 4), *cells[1:]))


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 520, 340, 44, 116, 34, 46
RULES_OF_STYLE = """
.courses{background:var(--paper)}
.courses text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
.courses .heading{font-size:14px;font-weight:600;fill:var(--ink)}
.courses .name{fill:var(--ink)}
.courses path{fill:none;stroke:var(--line);stroke-width:1}
.courses .course{stroke-width:1.75;stroke-linejoin:round}
.courses .lead{stroke:var(--soft);stroke-width:.75;opacity:.6}
"""


def courses(rows: Rows) -> str:
    """The error in each part of the stream, a panel for each stream, as SVG; "" where there is none."""
    panels = [words for words in STREAMS if any(f"depth{words}{end}" in rows for end in contenders())]
    if not panels:
        return ""
    drawn = "".join(
        f'<g transform="translate({WIDTH * place} 0)">{_panel(rows, words)}</g>' for place, words in enumerate(panels)
    )
    style = (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}{RULES_OF_STYLE.strip()}"
    )
    wide = WIDTH * len(panels)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<svg class="courses" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {wide} {HEIGHT}" width="100%" style="max-width:{wide}px" role="img" '
        f'aria-label="Error over the stream, by depth"><title>Error over the stream, by depth</title>'
        f"<style>{style}</style>{drawn}</svg>\n"
    )


def _panel(rows: Rows, words: str) -> str:
    wide, tall, low, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW, 10.0, 55.0

    def y(value: float) -> float:
        return TOP + tall * (1 - (min(max(value, low), high) - low) / (high - low))

    parts = [f'<text class="heading" x="{LEFT}" y="18">{escape(TITLES[words])}: error, %</text>']
    for tick in range(10, 60, 10):
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}h{wide}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for third, name in enumerate(THIRDS):
        parts.append(f'<path d="M{LEFT + wide * third / 3:.1f} {TOP}v{tall}"/>')
        at = LEFT + wide * (third + 0.5) / 3
        parts.append(f'<text x="{at:.1f}" y="{TOP + tall + 18}" text-anchor="middle">{name}</text>')
    lines = []
    for number, (end, title) in enumerate(contenders().items()):
        found = [sample(rows, f"depth{words}{end}", [part_name(part)]) for part in range(PARTS)]
        if points := [one.mean for one in found if one is not None]:
            lines.append((number, title, points))
    lines.sort(key=lambda line: y(line[2][-1]))
    for (number, title, points), share in zip(
        lines, spread([(y(points[-1]) - TOP) / tall for _, _, points in lines], 15 / tall), strict=True
    ):
        colour, dashes = method_stroke(number)
        at = [(LEFT + wide * (part + 0.5) / PARTS, y(value)) for part, value in enumerate(points)]
        course, beside = "L".join(f"{x:.1f} {height:.1f}" for x, height in at), TOP + tall * share
        parts.append(
            f'<path class="course" style="stroke:{colour};stroke-dasharray:{dashes or "none"}" d="M{course}">'
            f"<title>{escape(title)}</title></path>"
        )
        parts.append(f'<path class="lead" d="M{at[-1][0]:.1f} {at[-1][1]:.1f}L{LEFT + wide + 4} {beside:.1f}"/>')
        parts.append(f'<circle cx="{LEFT + wide + 8}" cy="{beside:.1f}" r="4" style="fill:{colour}"/>')
        parts.append(f'<text class="name" x="{LEFT + wide + 16}" y="{beside + 4:.1f}">{escape(title)}</text>')
    return "".join(parts)


def weights(rule: str, rows: int) -> str:
    """The weights of 20 layers over a stream with drift, as SVG."""
    moments: list[tuple[float, list[float]]] = []
    every = max(1, rows // 200)
    protocol = Depth("", 20, rows=rows)

    def watch(row: int, model: torch.nn.Module) -> None:
        if row % every == 0:
            moments.append((row, model.get_buffer("alpha").tolist()))

    torch.set_num_threads(1)
    protocol.wrong(f"hedge:rule={rule}", 0, watch)
    names = ["input", *(f"layer {depth}" for depth in range(1, 21))]
    marks = [(rows / 3, "another concept"), (2 * rows / 3, "the first again")]
    return svg(f"Weights of the exits, rule of the {rule}", names, moments, marks)


def fill(text: str, parts: dict[str, str]) -> str:
    """The page with what there is between `<!-- depth: NAME -->` and `<!-- end -->`."""
    for name, part in parts.items():
        mark = rf"(<!-- depth: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(mark, lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text, flags=re.DOTALL)
        if not count:
            raise ValueError(
                f"the page must have <!-- depth: {name} -->, and <!-- end --> after it, on lines of their own"
            )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="what `everlearn bench 'depth*' --out FILE` has written")
    parser.add_argument("--weights", type=int, default=0, help="rows of a run for the pictures of weights")
    parser.add_argument("--docs", type=Path, help="the folder of the documentation")
    given = parser.parse_args()
    rows: Rows = json.loads(given.file.read_text())["rows"] if given.file else {}
    tables = [markdown(cells) for words in STREAMS if (cells := table(rows, words))]
    print("\n\n".join(tables))
    parts, pictures = {}, {}
    if tables:
        made = f"Mean ± standard deviation over seeds. `python benchmarks/depth.py`, {datetime.now(UTC).date()}; CPU."
        parts["errors"] = "\n\n".join([*tables, made])
        parts["courses"] = "![The error over the stream, by depth](online-depth-courses.svg)"
        pictures["courses"] = courses(rows)
    if given.weights:
        for rule in RULES:
            pictures[f"weights-{rule}"] = weights(rule, given.weights)
        parts["weights"] = "\n\n".join(
            f"![Weights of the exits over the stream, rule of the {rule}](online-depth-weights-{rule}.svg)"
            for rule in RULES
        )
    if given.docs is not None:
        for name, picture in pictures.items():
            (given.docs / f"online-depth-{name}.svg").write_text(picture, encoding="utf-8")
        page = given.docs / PAGE
        page.write_text(fill(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
