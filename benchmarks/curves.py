"""Transfer, drawn: accuracy over steps and over photographs, adaptation of digits, and what would have been proposed.

    python benchmarks/curves.py HYM.json DIGITS.json               the tables, in the terminal
    python benchmarks/curves.py HYM.json DIGITS.json --docs docs   the same, pictures, and tables of transfer-results.md

It reads what `everlearn bench ... --out FILE.json` has written, from any number of files, and runs nothing. A row that
is in none of them is left out, and a picture or table that has no rows stays as it is on the page. The JSON that
`benchmarks/ranking.py` writes may be among the files.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from everlearn.bench.nets import convolutional
from everlearn.bench.published.adaptation import METHODS, THEIRS
from everlearn.bench.published.hymenoptera import SHOTS, STRATEGIES
from everlearn.bench.statistics import Sample
from everlearn.metrics.charts import Axis, method_stroke, spread
from everlearn.metrics.colours import variables
from everlearn.spec import parse_chain
from everlearn.transfer.strategy import Case, Proposal, propose

PAGE = "transfer-results.md"
ALL, MOBILENET = 122, 2_226_434
"""Photographs of a class, and parameters with a head for two classes."""
PAIRS = {"m2u": "MNIST to USPS", "u2m": "USPS to MNIST", "m2mm": "MNIST to MNIST-M"}
NAMES = {"scratch": "from scratch", "finetune": "fine-tuning", "lpft": "LP-FT", "l2sp": "L2-SP"}
NAMES |= {"lpft-settled": "LP-FT, norms settled", "source": "source only", "seen": "control"}
STEPS = {"at 25 %": 0.25, "at 50 %": 0.5, "accuracy": 1.0}
MARKS = {"target": "after the last step", "by im": "at the step chosen without labels", "ORACLE": "ORACLE"}
MARKS |= {"source": "on the source"}

Rows = dict[str, dict[str, Any]]
"""The rows of all files, by name."""
Ranks = dict[str, Any]
"""What `benchmarks/ranking.py` writes."""
Cells = list[tuple[str, ...]]


def read(files: Sequence[Path]) -> tuple[Rows, Ranks]:
    """The rows of the bench, and what `choose` was measured by, empty if it was not. A ValueError for other files."""
    rows: Rows = {}
    ranks: Ranks = {}
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and "rows" in found:
            rows |= found["rows"]
        elif isinstance(found, dict) and "kendall" in found:
            ranks = found
        else:
            raise ValueError(f"{file} has no rows; expected what `everlearn bench ... --out {file.name}` writes")
    return rows, ranks


def sample(rows: Rows, name: str, score: str) -> Sample | None:
    """The values of a score over seeds; None where the row is not there."""
    if name not in rows:
        return None
    return Sample.of(list(rows[name]["scores"][score]["values"].values()))


def photographed(rows: Rows, strategy: str, shots: int, score: str = "accuracy") -> Sample | None:
    """A score of a strategy with so many photographs of each class, 0 for all."""
    return sample(rows, f"hymenoptera-{strategy}" + (f"-{shots}" if shots else ""), score)


def adapted(rows: Rows, pair: str, score: str = "target") -> dict[str, Sample]:
    """A score of each method of a pair that is there."""
    found = {name: sample(rows, f"{pair}-{name}", score) for name in ("source", "seen", *METHODS)}
    return {name: each for name, each in found.items() if each is not None}


# -- tables -----------------------------------------------------------------------------------------------------


def strategies(rows: Rows) -> Cells:
    """Each strategy with each number of photographs, the best in bold; a header first."""
    found = {(name, shots): photographed(rows, name, shots) for shots in SHOTS for name in STRATEGIES}
    there = [shots for shots in SHOTS if any(found[name, shots] for name in STRATEGIES)]
    lines: Cells = [("photographs of a class", *(NAMES.get(name, name) for name in STRATEGIES))]
    for shots in there:
        means = {name: one.mean for name in STRATEGIES if (one := found[name, shots])}
        best = max(means.values())
        cells = [
            "" if (one := found[name, shots]) is None else f"**{_told(one)}**" if one.mean == best else _told(one)
            for name in STRATEGIES
        ]
        lines.append((str(shots) if shots else f"all, about {ALL}", *cells))
    return lines if there else []


def proposals(rows: Rows) -> Cells:
    """What is best in each case, what the rules propose, and whether that is as good; a header first."""
    lines: Cells = []
    for shots in SHOTS:
        found = {name: one for name in STRATEGIES if (one := photographed(rows, name, shots))}
        proposal = propose(Case(rows_per_class=shots or ALL, classes=2, parameters=MOBILENET))
        parts = [name for name in (proposal.strategy, proposal.method) if name]  # which were not run together
        lines += _judged(f"{shots or ALL} photographs of a class", found, proposal, parts)
    for pair, words in PAIRS.items():
        found, styles = adapted(rows, pair), pair == "m2mm"
        net = convolutional("dann" if styles else "lenet", 3 if styles else 1, 10, seed=0)
        weights = sum(weight.numel() for weight in net.parameters())
        case = Case(0, 10, weights, labelled=False, source=True, styles_differ=styles, pretrained=False)
        proposal = propose(case)
        texts = {name: rows[f"{pair}-{name}"]["made_with"]["config"]["method"] for name in found}
        same = [name for name, text in texts.items() if [spec.name for spec in parse_chain(text)] == [proposal.method]]
        lines += _judged(f"{words}, no labels there", found, proposal, same)
    return [("case", "best", "accuracy, %", "proposed", "accuracy, %", ""), *lines] if lines else []


def _judged(case: str, found: dict[str, Sample], proposal: Proposal, names: list[str]) -> Cells:
    """A line, if the case was measured; `names` are the rows that stand for the proposal, and the first is judged."""
    if not found:
        return []
    best = max(found, key=lambda name: found[name].mean)
    mine = [name for name in names if name in found]
    numbers = ", ".join(f"{name if len(mine) > 1 else ''} {_told(found[name])}".strip() for name in mine)
    verdict = "not measured"
    if mine:
        behind = found[best].mean - found[mine[0]].mean
        apart = max(found[name].sd or 0.0 for name in (best, mine[0]))
        verdict = "the best" if mine[0] == best else "within one SD" if behind <= apart else f"{behind:.1f} behind"
    return [(case, NAMES.get(best, best), _told(found[best]), f"`{proposal.name}`", numbers, verdict)]


def beside(rows: Rows) -> Cells:
    """Methods on the two pairs of TLlib's table, and that table; a header first."""
    lines: Cells = [
        ("method", *(text for pair in ("m2u", "u2m") for text in (PAIRS[pair], "by im", "ORACLE", "TLlib")))
    ]
    for name in ("source", "seen", *METHODS):
        cells = []
        for place, pair in enumerate(("m2u", "u2m")):
            ours = [sample(rows, f"{pair}-{name}", score) for score in ("target", "by im", "ORACLE")]
            theirs = f"{THEIRS[name][place]:.1f}" if name in THEIRS else ""
            cells += [*("" if one is None else _told(one) for one in ours), theirs]
        lines.append((NAMES.get(name, name), *cells))
    return lines


def ranking(ranks: Ranks) -> Cells:
    """Kendall's tau between each score of `choose` and the accuracy after fine-tuning; a header first."""
    if not ranks:
        return []
    sets = list(ranks["found"])
    lines = [
        (
            f"`{score}`" if score != "rank" else "rank",
            *(f"{taus[name]:.2f}" for name in sets),
            f"{fmean(taus.values()):.2f}",
        )
        for score, taus in ranks["kendall"].items()
    ]
    return [("score", *sets, "mean"), *lines]


def tuned(ranks: Ranks) -> Cells:
    """The accuracy of each base after fine-tuning, by data set; a header first."""
    if not ranks:
        return []
    sets = ranks["found"]
    bases = sorted(next(iter(sets.values())), key=lambda base: -fmean(each[base]["accuracy"] for each in sets.values()))
    lines = [(base, *(f"{100 * each[base]['accuracy']:.1f}" for each in sets.values())) for base in bases]
    return [("base", *(f"{name}, %" for name in sets)), *lines]


def _told(one: Sample) -> str:
    return f"{one.mean:.1f}" if one.sd is None else f"{one.mean:.1f} ± {one.sd:.1f}"


def markdown(cells: Cells, left: Sequence[int] = (0,)) -> str:
    """As a table whose columns are numbers, but for those at `left`."""
    rule = tuple("---" if place in left else "---:" for place in range(len(cells[0])))
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


# -- pictures ---------------------------------------------------------------------------------------------------

WIDTH = 960
TOP, BELOW = 34, 46
RULES = """
.curves{background:var(--paper)}
.curves text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
.curves .heading{font-size:14px;font-weight:600;fill:var(--ink)}
.curves .name{fill:var(--ink)}
.curves path{fill:none;stroke:var(--line);stroke-width:1}
.curves .course{stroke-width:1.75;stroke-linejoin:round}
.curves .sd{stroke-width:1.5;opacity:.55}
.curves .lead{stroke:var(--soft);stroke-width:.75;opacity:.6}
.curves .rule{stroke:var(--soft);stroke-dasharray:2 4}
.curves circle{stroke:var(--paper);stroke-width:1.25}
.curves .target{fill:var(--m0)}
.curves path.target{stroke:var(--m0);stroke-width:1.5;opacity:.7}
.curves path.im{stroke:var(--m1);stroke-width:2}
.curves path.oracle{stroke:var(--soft);stroke-width:1.5}
.curves path.source{stroke:var(--m2);stroke-width:2}
"""


class Line(NamedTuple):
    """A line: places from 0 to 1, each with its values over seeds."""

    name: str
    number: int
    points: list[tuple[float, Sample]]


def axis(values: Sequence[float], most: int = 6) -> Axis:
    """An axis of percent that holds all values, with round numbers on it.

    >>> axis([52.0, 96.5]).low, axis([52.0, 96.5]).high
    (50.0, 100.0)
    >>> [text for _, text in axis([91.0, 94.2]).ticks]
    ['91', '92', '93', '94', '95']
    """
    low, high = max(min(values), 0.0), min(max(values), 100.0)
    step = next((step for step in (1, 2, 5, 10) if math.ceil(high / step) - math.floor(low / step) <= most), 20)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return Axis(
        first * step, last * step * 1.0, [(tick * step * 1.0, f"{tick * step}") for tick in range(first, last + 1)]
    )


def steps(rows: Rows) -> str:
    """Accuracy on ants and bees over the share of the steps, as SVG; "" where there is none."""
    ticks = [((share - 0.15) / 0.85, f"{share:.0%}".replace("%", " %")) for share in STEPS.values()]
    lines = []
    for number, name in enumerate(STRATEGIES):
        found = [photographed(rows, name, 0, score) for score in STEPS]
        points = [(place, one) for (place, _), one in zip(ticks, found, strict=True) if one is not None]
        lines.append(Line(name, number, points))
    return _curves("Ants and bees over the steps", lines, ticks, "share of the steps")


def shots(rows: Rows) -> str:
    """Accuracy on ants and bees over the number of photographs, logarithmic, as SVG; "" where there is none."""
    first, last = math.log(SHOTS[0] * 0.8), math.log(ALL * 1.1)
    ticks = [
        ((math.log(each or ALL) - first) / (last - first), str(each) if each else f"all ({ALL})") for each in SHOTS
    ]
    lines = []
    for number, name in enumerate(STRATEGIES):
        found = [photographed(rows, name, each) for each in SHOTS]
        points = [(place, one) for (place, _), one in zip(ticks, found, strict=True) if one is not None]
        lines.append(Line(name, number, points))
    return _curves("Ants and bees over the number of photographs", lines, ticks, "photographs of each class")


def _curves(title: str, lines: list[Line], ticks: list[tuple[float, str]], below: str) -> str:
    """All lines, and beside them those that begin with weights, whose differences are smaller."""
    lines = [line for line in lines if line.points]
    with_weights = [line for line in lines if line.name != "scratch"]
    panels = [("All", lines)] if lines else []
    if 0 < len(with_weights) < len(lines):
        panels.append(("With weights of ImageNet", with_weights))
    height = 340
    parts = [
        f'<g transform="translate({WIDTH // 2 * place} 0)">{_panel(heading, each, ticks, below, height)}</g>'
        for place, (heading, each) in enumerate(panels)
    ]
    told = "; ".join(
        f"{NAMES.get(line.name, line.name)}: {', '.join(_told(one) for _, one in line.points)}" for line in lines
    )
    return _whole(title, told, WIDTH // 2 * len(panels), height, parts) if panels else ""


def _panel(heading: str, lines: list[Line], ticks: list[tuple[float, str]], below: str, height: int) -> str:
    left, wide, tall = 44, WIDTH // 2 - 44 - 156, height - TOP - BELOW  # at the right the names
    scale = axis([end for line in lines for _, one in line.points for end in _ends(one)])

    def y(value: float) -> float:
        return TOP + tall * (1 - scale.share(value))

    parts = [f'<text class="heading" x="{left}" y="18">{escape(heading)}: accuracy, %</text>']
    for value, text in scale.ticks:
        parts.append(f'<path d="M{left} {y(value):.1f}h{wide}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for place, text in ticks:
        parts.append(f'<text x="{left + wide * place:.1f}" y="{TOP + tall + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{height - 8}" text-anchor="middle">{escape(below)}</text>')
    order = sorted(lines, key=lambda line: -line.points[-1][1].mean)
    heights = spread([1 - scale.share(line.points[-1][1].mean) for line in order], 15 / tall)
    for line, share in zip(order, heights, strict=True):
        colour, dashes = method_stroke(line.number)
        aside = 5 * (line.number - (len(STRATEGIES) - 1) / 2)  # so that the bars of two lines stand side by side
        at = [(left + wide * place + aside, one) for place, one in line.points]
        name, beside = NAMES.get(line.name, line.name), TOP + tall * share
        parts.append(
            f'<path class="lead" d="M{at[-1][0] + 5:.1f} {y(at[-1][1].mean):.1f}L{left + wide + 18} {beside:.1f}"/>'
        )
        course = "L".join(f"{x:.1f} {y(one.mean):.1f}" for x, one in at)
        parts.append(
            f'<path class="course" style="stroke:{colour};stroke-dasharray:{dashes or "none"}" d="M{course}"/>'
        )
        for x, one in at:
            low, high = (y(min(max(end, scale.low), scale.high)) for end in _ends(one))
            parts.append(f'<path class="sd" style="stroke:{colour}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
            dot = f'<circle cx="{x:.1f}" cy="{y(one.mean):.1f}" r="4" style="fill:{colour}">'
            parts.append(f"{dot}<title>{escape(name)}: {_told(one)} %</title></circle>")
        parts.append(f'<circle cx="{left + wide + 23}" cy="{beside:.1f}" r="4" style="fill:{colour}"/>')
        parts.append(f'<text class="name" x="{left + wide + 30}" y="{beside + 4:.1f}">{escape(name)}</text>')
    return "".join(parts)


def dots(rows: Rows) -> str:
    """Adaptation of digits, a panel for each pair and a line for each method, as SVG; "" where there is none."""
    pairs = [pair for pair in PAIRS if adapted(rows, pair)]
    if not pairs:
        return ""
    most, line = max(len(adapted(rows, pair)) for pair in pairs), 20
    height, wide = TOP + line * most + 84, WIDTH // 3
    parts = [
        f'<g transform="translate({wide * place} 0)">{_dotted(rows, pair, wide, line)}</g>'
        for place, pair in enumerate(pairs)
    ]
    x = 84.0
    for score, words in MARKS.items():
        parts.append(f'{_mark(score, x, height - 14)}<text x="{x + 14:.0f}" y="{height - 10}">{words}</text>')
        x += 44 + 6.3 * len(words)
    told = "; ".join(
        f"{PAIRS[pair]}: {', '.join(f'{name} {_told(one)}' for name, one in adapted(rows, pair).items())}"
        for pair in pairs
    )
    return _whole("Adaptation of digits", told, max(wide * len(pairs), 700), height, parts)


def _dotted(rows: Rows, pair: str, width: int, line: int) -> str:
    """One pair: the bounds, then the methods, the best first."""
    found = {score: adapted(rows, pair, score) for score in MARKS}
    target = found["target"]
    bounds = [name for name in ("source", "seen") if name in target]
    order = bounds + sorted(target.keys() - {*bounds}, key=lambda name: (-target[name].mean, name))
    left, wide, tall = 88, width - 88 - 22, line * len(order)
    means = [one.mean for each in found.values() for one in each.values()]
    scale = axis([*means, *(end for one in target.values() for end in _ends(one))], 5)

    def x(value: float) -> float:
        return left + wide * scale.share(min(max(value, scale.low), scale.high))

    parts = [f'<text class="heading" x="{left}" y="18">{escape(PAIRS[pair])}</text>']
    for value, text in scale.ticks:
        parts.append(f'<path d="M{x(value):.1f} {TOP - 6}v{tall + 8}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{TOP + tall + 20}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{TOP + tall + 38}" text-anchor="middle">accuracy, %</text>')
    if bounds and len(order) > len(bounds):
        parts.append(f'<path class="rule" d="M4 {TOP + line * len(bounds) - 1}H{left + wide}"/>')
    for place, name in enumerate(order):
        y = TOP + line * place + 10
        label = escape(NAMES.get(name, name))
        parts.append(f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">{label}</text>')
        low, high = map(x, _ends(target[name]))
        parts.append(f'<path class="target" d="M{low:.1f} {y}H{high:.1f}"/>')
        for score in ("source", "ORACLE", "by im", "target"):
            one = found[score][name]
            parts.append(f"<g><title>{label}, {MARKS[score]}: {_told(one)} %</title>{_mark(score, x(one.mean), y)}</g>")
    return "".join(parts)


def _mark(score: str, x: float, y: float) -> str:
    """A dot, a diamond, a ring or a stroke."""
    if score == "target":
        return f'<circle class="target" cx="{x:.1f}" cy="{y}" r="3.5"/>'
    if score == "by im":
        return f'<path class="im" d="M{x - 6.5:.1f} {y}l6.5 -6.5l6.5 6.5l-6.5 6.5Z"/>'
    if score == "ORACLE":
        return f'<path class="oracle" d="M{x - 8:.1f} {y}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0"/>'
    return f'<path class="source" d="M{x:.1f} {y - 6}v12"/>'


def _ends(one: Sample) -> tuple[float, float]:
    return one.mean - (one.sd or 0.0), one.mean + (one.sd or 0.0)


def _whole(title: str, told: str, width: int, height: int, parts: Sequence[str]) -> str:
    style = (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}{RULES.strip()}"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg class="curves" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="100%" style="max-width:{width}px" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc><style>{style}</style>{''.join(parts)}</svg>\n"
    )


# -- the page ---------------------------------------------------------------------------------------------------

PICTURES = {
    "steps": (steps, "Accuracy on ants and bees over the share of the steps, for five strategies"),
    "shots": (shots, "Accuracy on ants and bees over the number of photographs of each class"),
    "dots": (dots, "Adaptation of digits: accuracy on the target by method, and at chosen steps"),
}
TABLES = {"strategies": (strategies, (0,)), "proposals": (proposals, (0, 1, 3, 5)), "beside": (beside, (0,))}


def write(rows: Rows, ranks: Ranks, folder: Path) -> None:
    """The pictures, and what stands between `<!-- curves: NAME -->` and `<!-- end -->` on the page."""
    page = folder / PAGE
    text = page.read_text(encoding="utf-8")
    for name, (drawn, words) in PICTURES.items():
        if picture := drawn(rows):
            (folder / f"transfer-{name}.svg").write_text(picture, encoding="utf-8")
            text = _filled(text, name, f"![{words}](transfer-{name}.svg)")
    today = datetime.now(UTC).date()
    used = ", ".join(sorted({entry["made_with"]["versions"]["torch"] for entry in rows.values()}))
    said = f"Mean ± standard deviation over seeds. `python benchmarks/curves.py`, {today}; torch {used}."
    for name, (made, left) in TABLES.items():
        if cells := made(rows):
            text = _filled(text, name, f"{markdown(cells, left)}\n\n{said}" if rows else markdown(cells, left))
    if ranks:
        said = f"`python benchmarks/ranking.py`, {today}; {ranks['about']['device']}."
        text = _filled(text, "ranking", "\n\n".join([*(markdown(made(ranks)) for made in (ranking, tuned)), said]))
    page.write_text(text, encoding="utf-8")


def _filled(text: str, name: str, content: str) -> str:
    start, end = f"<!-- curves: {name} -->", "<!-- end -->"
    if not re.search(f"{start}\n.*?{end}", text, re.DOTALL):
        raise ValueError(f"the page must have {start}, and {end} after it, each on a line of its own")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{content}\n\n{end}{after}"


def main() -> None:
    """Reads, prints, and with --docs draws and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="+", type=Path, help="what `everlearn bench ... --out FILE.json` has written")
    options.add_argument("--docs", type=Path, help=f"the folder of {PAGE}, whose tables and pictures are made anew")
    given = options.parse_args()
    rows, ranks = read(given.files)
    for cells, left in (
        *((made(rows), left) for made, left in TABLES.values()),
        (ranking(ranks), (0,)),
        (tuned(ranks), (0,)),
    ):
        if cells:
            print(markdown(cells, left), end="\n\n")
    if given.docs:
        write(rows, ranks, given.docs)


if __name__ == "__main__":
    main()
