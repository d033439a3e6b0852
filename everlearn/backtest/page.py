"""The report of a backtest as one self-contained HTML file: no script, nothing from outside."""

import json
import re
from collections.abc import Mapping
from html import escape

from everlearn.backtest.cells import COLUMNS, cells
from everlearn.backtest.outcome import Outcome, window
from everlearn.backtest.verdict import BASELINES, Verdict, summary
from everlearn.metrics.figures import scroll, section
from everlearn.metrics.style import sheet
from everlearn.metrics.timeline import NAMED, timeline

_STYLE = """
.lead{max-width:72ch}
.policies{width:100%;font-size:.84rem}
.policies td,.policies th{vertical-align:middle;padding-left:1rem}
.policies thead th{overflow-wrap:normal}
.policies tbody tr>th:first-child{font:.78rem ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;min-width:14em;
 overflow-wrap:normal;white-space:normal}
.policies tr.behind td,.policies tr.behind th{color:var(--soft)}
.policies tr.best td,.policies tbody tr.best>th:first-child{font-weight:650}
.policies td.interval{padding-left:.7rem;width:9em;min-width:5em}
.interval svg{display:block;width:100%;height:14px;overflow:visible}
.interval path{fill:none;vector-effect:non-scaling-stroke}
.interval .zero{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}
.interval .range{stroke:var(--kept);stroke-width:2}
.interval .mean{stroke:var(--kept);stroke-width:7;stroke-linecap:round}
.interval .worse{stroke:var(--lost)}
.meanings{margin-top:1rem;font-size:.9rem}
.meanings dt{font-weight:600;margin-top:.7rem}
.meanings dd{margin:0;max-width:72ch;color:var(--soft)}
figure{margin-top:1.4rem}
.timeline .ends:not(:empty){width:19em}
"""


def page(title: str, verdict: Verdict, facts: Mapping[str, object], *, timed: bool) -> str:
    """The whole page. Every string that a user gave is escaped."""
    sections = (_policies(verdict, timed=timed), _course(verdict), _facts(facts), _meanings(verdict))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{sheet()}{_STYLE.strip()}</style></head>'
        f'<body><header><h1>{escape(title)}</h1><p class="lead">{escape(summary(verdict))}</p></header>'
        f"<main>{''.join(sections)}</main>"
        "<footer>Made by everlearn. All numbers are in report.json.</footer></body></html>\n"
    )


def _policies(verdict: Verdict, *, timed: bool) -> str:
    """The policies, the best first, each with its distance to the best."""
    shown = [column for column in COLUMNS if column.shown(verdict)]
    titles = []
    for column in shown:
        titles.append(f'<th scope="col">{escape(column.title)}</th>')
        if column.title == "behind the best":
            titles.append("<td></td>")
    rows = []
    for outcome in verdict.outcomes:
        words = cells(outcome, verdict, timed=timed)
        data = []
        for column in shown:
            data.append(f"<td>{escape(words[column.title])}</td>")
            if column.title == "behind the best":
                data.append(f'<td class="interval">{_interval(outcome, verdict)}</td>')
        kind = "best" if outcome is verdict.best else "" if outcome in verdict.tied else "behind"
        rows.append(f'<tr class="{kind}"><th scope="row">{_breaking(outcome.name)}</th>{"".join(data)}</tr>')
    table = (
        f'<table class="glance policies"><thead><tr><td></td>{"".join(titles)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return scroll("The policies, the best first", table)


def _breaking(name: str) -> str:
    """The name of a policy, which may be broken between its parts."""
    return "<wbr>".join(escape(part) for part in re.split(r"(?<=[,:+|])", name))


def _interval(outcome: Outcome, verdict: Verdict) -> str:
    """How far it is behind the best, as a line from the low to the high end of the interval."""
    if outcome is verdict.best or not verdict.behind:
        return ""
    lowest = min(0.0, *(each.low for each in verdict.behind.values()))
    highest = max(0.0, *(each.high for each in verdict.behind.values())) or 1.0
    found = verdict.behind[outcome.name]
    zero, low, mean, high = (
        1000 * (value - lowest) / (highest - lowest) for value in (0.0, found.low, found.mean, found.high)
    )
    worse = " worse" if found.shown else ""
    return (
        '<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="zero" d="M{zero:.1f} -8V18"/><path class="range{worse}" d="M{low:.1f} 5H{high:.1f}"/>'
        f'<path class="mean{worse}" d="M{mean:.1f} 5h0"/></svg>'
    )


def _course(verdict: Verdict) -> str:
    """Errors over the rows of the log."""
    always = [each for each in verdict.outcomes if each.name in {*BASELINES, "never"}]
    others = [each for each in verdict.outcomes if each not in always]
    shown = [each for each in verdict.outcomes if each in always or each in others[: NAMED - len(always)]]
    curves = {each.name: each.curve for each in shown}
    size = window(len(verdict.best.errors))
    name = "Mean absolute error" if verdict.regression else "Wrong answers"
    drawn = timeline(
        curves,
        title=f"{name} over the log",
        unit="number" if verdict.regression else "share",
        baselines=BASELINES,
    )
    left = len(verdict.outcomes) - len(shown)
    note = f"Each point is the mean over {size:,} answers before it, and the number at a name is the last one."
    note += " Lower is better."
    note += f" Not drawn: the last {left} of the others." if left else ""
    return section("Over time", note, drawn)


def _facts(facts: Mapping[str, object]) -> str:
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd>" for name, value in facts.items())
    return section("Settings", "How this was made.", f'<dl class="facts">{entries}</dl>')


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _meanings(verdict: Verdict) -> str:
    entries = "".join(
        f"<dt>{escape(column.title)}</dt><dd>{escape(column.meaning)}</dd>"
        for column in COLUMNS
        if column.shown(verdict)
    )
    note = "Every policy saw each label only when it had arrived, and was asked each row before it learned it."
    return section("What the columns mean", note, f'<dl class="meanings">{entries}</dl>')
