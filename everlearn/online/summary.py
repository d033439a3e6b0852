"""What became of a stream, for people and for programs: report.html and report.json."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from everlearn.environment import environment
from everlearn.metrics.figures import scroll, section
from everlearn.metrics.style import sheet
from everlearn.metrics.timeline import timeline
from everlearn.metrics.written import written
from everlearn.online.service import Service

_NAMES = {
    "accuracy": "Accuracy, all rows",
    "windowed": "Accuracy, last rows",
    "fading": "Accuracy, fading",
    "no_change": "No-change baseline",
    "kappa": "Kappa",
    "kappa_t": "Kappa-T (against no-change)",
    "kappa_m": "Kappa-M (against the majority)",
    "mae": "Mean absolute error",
    "windowed_mae": "Mean absolute error, last rows",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "no_change_mae": "No-change baseline, absolute error",
}
"""The readings that stand at the top, in this order."""

_COUNTS = {
    "records": "Records read",
    "rows": "Rows answered",
    "labelled": "Rows that got their label",
    "learned": "Rows learned",
    "waiting": "Rows that wait for their label",
    "held": "Labels that are held back",
    "labels": "Labels that came by themselves",
    "early": "Labels that came before their row",
    "double": "Labels that came twice",
    "corrected": "Labels that were corrected",
    "late": "Labels that came too late",
    "unknown": "Labels whose row never came",
    "expired": "Rows given up, as their label took too long",
    "dropped": "Rows given up, as too many were waiting",
    "shed": "Rows not learned, as the queue was full",
    "duplicates": "Rows that came twice, left out",
    "quarantined": "Rows that could not be read or learned",
    "drifts": "Drifts",
}
"""What is counted, in words."""

_ALWAYS = ("records", "rows", "labelled", "learned", "duplicates", "quarantined")

_SHARES = ("accuracy", "windowed", "fading", "no_change")


def summary(service: Service) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    readings = {name: value for name, value in service.score.reading().items() if math.isfinite(value)}
    drift = service.learning.drift
    settings = service.settings.to_json() | {"source": service.feed.name}  # which holds no password
    return {
        "title": f"everlearn: {service.folder.name}",
        "summary": _lead(service, readings),
        "ended": service.ended,
        "readings": readings,
        "counts": counts(service),
        "latency": {"p50": service.latency.quantile(0.5), "p99": service.latency.quantile(0.99)},
        "seconds": service.spent,
        "events": [] if drift is None else [asdict(event) for event in drift.events],
        "snapshots": service.score.snapshots,
        "facts": {"settings": settings, **environment()},
    }


def counts(service: Service) -> dict[str, int]:
    """What came, and what became of it."""
    return {
        **asdict(service.tally),
        "learned": service.learning.rows,
        "quarantined": service.quarantine.count,
        **asdict(service.ledger.counts),
        "waiting": service.ledger.waiting,
        "held": service.held,
        "drifts": service.learning.drift.count if service.learning.drift else 0,
    }


def done(folder: Path) -> bool:
    """Whether the stream of the service in a folder has ended, and its report is written."""
    path, page = folder / "report.json", folder / "report.html"
    return page.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["ended"])


def write_summary(service: Service) -> Path:
    """Writes `report.json`, and last `report.html`, into the folder of the service; returns the page."""
    found = summary(service)
    return written(service.folder, found, _page(service, found))


def _lead(service: Service, readings: Mapping[str, float]) -> str:
    """What happened, in two sentences."""
    rows, scored = service.tally.rows, service.score.rows
    came = f"{rows:,} rows were answered, and {scored:,} of them got their label."
    if not scored:
        return came
    if "accuracy" in readings:
        return (
            f"{came} Each answered before it was learned, {100 * readings['accuracy']:.1f} % were right; the label of "
            f"the row before would have been right for {100 * readings['no_change']:.1f} %."
        )
    return f"{came} Each answered before it was learned, the mean absolute error was {readings['mae']:.4g}."


def _page(service: Service, found: Mapping[str, Any]) -> str:
    """The whole page. Every string that a user gave is escaped."""
    title = escape(found["title"])
    sections = (_course(service), _figures(found), _classes(found), _counts(found), _settings(found))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{sheet()}</style></head><body>'
        f'<header><h1>{title}</h1><p class="lead">{escape(found["summary"])}</p></header>'
        f"<main>{''.join(sections)}</main>"
        "<footer>Made by everlearn. The figures behind this page are in report.json.</footer></body></html>\n"
    )


def _course(service: Service) -> str:
    """The scores over time, with the drift that was noticed."""
    drift = service.learning.drift
    events = [(event.at, event.detector) for event in drift.events if event.detector] if drift else []
    events = list(dict.fromkeys(events))  # an event for each reaction, but one line
    last = f"last {service.score.window:,} rows"
    if service.score.kind == "accuracy":
        names = {"windowed": last, "accuracy": "all rows", "windowed_no_change": "no-change"}
        picture = _picture(service, names, events, title="Accuracy", unit="share")
    else:
        names = {"windowed_mae": last, "mae": "all rows", "windowed_no_change_mae": "no-change"}
        picture = _picture(service, names, events, title="Mean absolute error", unit="number")
    note = (
        "Each row is answered before it is learned. In grey what the label of the row before would have scored as an "
        "answer. Dashed: drift."
    )
    return section("Over time", note, picture)


def _picture(service: Service, names: Mapping[str, str], events: Any, **look: Any) -> str:
    curves = {label: service.score.curve(name) for name, label in names.items()}
    there = {name: points for name, points in curves.items() if points}
    return timeline(there, events=events, baselines=("no-change",), x="rows", **look)


def _figures(found: Mapping[str, Any]) -> str:
    readings = found["readings"]
    rows = []
    for name, label in _NAMES.items():
        if name in readings:
            value = f"{100 * readings[name]:.1f} %" if name in _SHARES else f"{readings[name]:.4g}"
            rows.append((label, value))
    if "accuracy_low" in readings:
        low, high = (readings.get(f"accuracy_block_{end}", readings[f"accuracy_{end}"]) for end in ("low", "high"))
        rows.insert(1, ("95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %"))
    return section("Figures", "At the end of what was read.", _table(rows))


def _classes(found: Mapping[str, Any]) -> str:
    recalls = {name[7:-1]: value for name, value in found["readings"].items() if name.startswith("recall[")}
    worst = sorted(recalls.items(), key=lambda pair: pair[1])[:50]
    note = "The share of the rows of each class that was answered rightly; the worst stand first."
    return section("Classes", note, _table([(name, f"{100 * value:.1f} %") for name, value in worst]))


def _counts(found: Mapping[str, Any]) -> str:
    latency = found["latency"]
    numbers = found["counts"]
    rows = [(label, f"{numbers[name]:,}") for name, label in _COUNTS.items() if numbers[name] or name in _ALWAYS]
    rows += [(f"Latency, {name}", milliseconds(value)) for name, value in latency.items()]
    return section("What came", "Records that were read, and what became of them.", _table(rows))


def _settings(found: Mapping[str, Any]) -> str:
    facts = dict(found["facts"])
    facts = facts.pop("settings") | facts
    entries = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value if isinstance(value, str) else json.dumps(value))}</dd>"
        for name, value in facts.items()
        if value not in ("", [], None)
    )
    return section("Settings", "How it was made.", f'<dl class="facts">{entries}</dl>')


def _table(rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return scroll("Figures", f'<table class="glance"><tbody>{body}</tbody></table>')


def milliseconds(seconds: float) -> str:
    """A short time in words.

    >>> milliseconds(0.00123), milliseconds(0.25), milliseconds(3.0)
    ('1.2 ms', '250 ms', '3,000 ms')
    """
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"
