"""The report as one self-contained HTML file: no script, nothing from outside."""

# ruff: noqa: RUF001 (a minus sign is meant)

import json
from collections.abc import Mapping, Sequence
from html import escape

from everlearn.metrics import figures, wording
from everlearn.metrics.account import Account
from everlearn.metrics.catalogue import READINGS
from everlearn.metrics.evaluate import Kind
from everlearn.metrics.style import sheet


def page(title: str, accounts: Sequence[Account], facts: Mapping[str, object]) -> str:
    """The whole page. Every string that a user gave is escaped."""
    sections = (
        _glance(accounts),
        figures.time(accounts),
        figures.matrices(accounts),
        figures.classes(accounts),
        figures.cost(accounts),
        _facts(facts),
        _definitions(accounts),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{sheet()}</style></head><body>'
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(wording.summary(accounts))}</p></header><main>{"".join(sections)}</main>'
        "<footer>Made by everlearn. The raw scores behind every number are in report.json.</footer>"
        "</body></html>\n"
    )


def _glance(accounts: Sequence[Account]) -> str:
    """The methods side by side."""
    kind = accounts[0].scores.kind
    percent, points = (", %", ", points") if kind == "accuracy" else ("", "")
    more = kind == "accuracy"
    groups = [
        [
            _reading(accounts, "average_accuracy", f"Average {kind}{percent}", high=more, style="head"),
            *(
                _reading(accounts, name, label, high=high)
                for name, label, high in (
                    ("forgetting", f"Forgetting{points}", False),
                    ("backward_transfer", f"Backward transfer{points}", True),
                    ("learning_accuracy", f"Learning {kind}{percent}", more),
                    ("worst_case_accuracy", f"Worst-case {kind}{percent}", more),
                )
                if any(name in account.readings for account in accounts)
            ),
        ]
    ]
    if any(account.update.old_before is not None for account in accounts):
        groups.append(
            [
                _row(f"Last update: old experiences{percent}", [wording.old(account) for account in accounts]),
                _row(f"Last update: new experience{percent}", [wording.new(account) for account in accounts]),
            ]
        )
    known = [_row(name, cells) for name, cells in wording.costs(accounts).items()]
    groups += [known] if known else []
    head = "".join(f'<th scope="col">{escape(account.name)}</th>' for account in accounts)
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in groups)
    return figures.scroll(
        "The methods side by side",
        f'<table class="glance"><thead><tr><td></td>{head}</tr></thead>{body}</table>',
    )


def _reading(accounts: Sequence[Account], name: str, label: str, *, high: bool, style: str = "") -> str:
    kind = accounts[0].scores.kind
    values = [account.readings.get(name) for account in accounts]
    known = [value for value in values if value is not None]
    best = (max(known) if high else min(known)) if len(known) > 1 else None
    return _row(
        f'<a href="#{name}">{label}</a>',
        [_said(name, value, kind) for value in values],
        [value is not None and value == best for value in values],
        style,
    )


def _row(label: str, cells: Sequence[str], best: Sequence[bool] = (), style: str = "") -> str:
    marks = best or [False] * len(cells)
    data = "".join(
        f'<td class="best">{cell}</td>' if mark else f"<td>{cell}</td>" for cell, mark in zip(cells, marks, strict=True)
    )
    return f'<tr class="{style}"><th scope="row">{label}</th>{data}</tr>'


def _said(name: str, value: float | None, kind: Kind) -> str:
    return wording.level(value, kind) if READINGS[name].level else wording.difference(value, kind)


def _facts(facts: Mapping[str, object]) -> str:
    """How the runs were made."""
    if not facts:
        return ""
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{_fact(value)}</dd>" for name, value in facts.items())
    return figures.section("Settings", "How these runs were made.", f'<dl class="facts">{entries}</dl>')


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        said = {key: item for key, item in value.items() if item not in ("", [], None)}
        return ", ".join(f"{escape(str(key))} <b>{escape(_plain(item))}</b>" for key, item in said.items())
    return escape(_plain(value))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _definitions(accounts: Sequence[Account]) -> str:
    """All readings, each with its definition, its equation and its source."""
    kind = accounts[0].scores.kind
    entries = []
    for name, reading in READINGS.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(account.name)}</th>'
            f"<td>{_said(name, account.readings.get(name), kind)}</td></tr>"
            for account in accounts
        )
        why = "" if any(name in account.readings for account in accounts) else accounts[0].missing[name]
        entries.append(
            f'<div class="reading" id="{name}"><h3>{reading.name[0].upper()}{reading.name[1:]} '
            f'<code class="soft">{name}</code></h3><p>{escape(reading.definition)}</p>'
            f'<p class="equation">{escape(reading.equation)}</p><p class="note">{escape(reading.source)}'
            + (f". Not read here: {escape(why)}." if why else "")
            + (f"</p><table>{rows}</table></div>" if not why else "</p></div>")
        )
    note = (
        "R[i, j] is the accuracy on experience j after experience i, counted from 0 to T−1. Levels are in "
        "percent, differences in percentage points. Libraries use one name for several of these: compare "
        "like with like."
        if kind == "accuracy"
        else "R[i, j] is minus the mean squared error on experience j after experience i, counted from 0 to "
        "T−1: it stands for the accuracy, so that forgetting is the rise of the error. Levels are errors."
    )
    return figures.section("All readings, and what they mean", note, f'<div class="readings">{"".join(entries)}</div>')
