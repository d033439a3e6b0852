"""The sections of the page that hold pictures: values over time, the matrix, the classes, the cost."""

import math
from collections.abc import Sequence
from html import escape

from everlearn.metrics import charts, wording
from everlearn.metrics.account import Account, ClassChange
from everlearn.metrics.charts import Axis, Line

SHOWN = 24
"""How many bars stand open; further ones are folded away."""

NAMED = 9
"""How many lines can have their names beside them."""


def section(title: str, note: str, content: str) -> str:
    """A titled part of the page, or nothing where there is nothing to show."""
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{content}</section>' if content else ""


def scroll(label: str, content: str) -> str:
    """Something wide. What scrolls can be reached by keyboard, and says what it is."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def time(accounts: Sequence[Account]) -> str:
    """Accuracy over time: the methods side by side, then each experience of each method."""
    kind = accounts[0].scores.kind
    if max(len(account.moments.after) for account in accounts) < 2:
        return ""  # one moment is not yet a course
    longest = max(accounts, key=lambda account: account.learning)
    named = longest.learning <= 6 and bool(longest.scores.names)
    marks = [longest.scores.name(i) if named else str(i) for i in range(longest.learning)]
    axis = _axis(accounts)
    panels = []
    if len(accounts) > 1:
        means = [
            Line(account.name, _points(account, None), *charts.method_stroke(i), width=2.25)
            for i, account in enumerate(accounts)
        ]
        title = f"All methods: average {kind} on the experiences so far"
        panels.append(_plot(title, means, axis, marks, charts.key(means)))
    for account in accounts:
        subject = f"{account.name}: {kind}" if len(accounts) > 1 else kind.capitalize()
        title = f"{subject} on each experience"
        panels.append(_plot(title, _experiences(account), axis, marks, charts.age_key()))
    note = "On test rows. Dotted lines: the next experience begins. Below: the experience being learned."
    return section(f"{kind.capitalize()} over time", note, _panels(panels, 440))


def matrices(accounts: Sequence[Account]) -> str:
    """The accuracy matrix of each method, as a table whose colours say what its numbers say."""
    measured = [account for account in accounts if len(account.matrix)]
    if not measured:
        return ""
    kind = accounts[0].scores.kind
    full = 1.0
    if kind == "error":
        full = max(float(account.matrix.nan_to_num(0).max()) for account in measured) or 1.0
    panels = [_heading(account, accounts) + _heat(account, full) for account in measured]
    unit = "percent" if kind == "accuracy" else "mean squared error"
    note = (
        "Rows: after which experience. Columns: on whose test rows. Framed: right after it was learned. "
        f"In {unit}; a dot is what was not measured. The last column is the mean over the experiences so far."
    )
    title = f"{kind.capitalize()} on every experience, after every experience"
    return section(title, note, _panels(panels, _wide(max(len(account.matrix) for account in measured))))


def classes(accounts: Sequence[Account]) -> str:
    """What became of each class of the experiences before the last."""
    panels = [_heading(account, accounts) + _class_bars(account) for account in accounts if account.classes]
    note = (
        "How much of each class was right when it was learned, and is right after the last experience. "
        "The classes that lost most stand first."
    )
    content = charts.change_key() + _panels(panels, 400) if panels else ""
    return section("What was forgotten, by class", note, content)


def cost(accounts: Sequence[Account]) -> str:
    """Time and memory, by experience."""
    notes = [note for account in accounts for note in account.scores.notes.values()]
    longest = max((note["seconds"] for note in notes if "seconds" in note), default=0.0)
    largest = max((note["memory_bytes"] for note in notes if "memory_bytes" in note), default=0.0)
    noted = [account for account in accounts if account.scores.notes and (longest or largest)]
    panels = [_heading(account, accounts) + _cost_bars(account, longest, largest) for account in noted]
    note = "What it took to learn each experience, and what is stored of past rows after it."
    return section("Time and memory", note, _panels(panels, 400))


def _panels(contents: Sequence[str], width: int) -> str:
    panels = "".join(f"<figure>{content}</figure>" for content in contents)
    return f'<div class="panels" style="--panel:{width}px">{panels}</div>' if contents else ""


def _heading(account: Account, accounts: Sequence[Account]) -> str:
    return f"<h3>{escape(account.name)}</h3>" if len(accounts) > 1 else ""


def _plot(title: str, entries: Sequence[Line], axis: Axis, marks: Sequence[str], key: str) -> str:
    """A plot with the names of the lines at their ends, or, where they are many, with `key` below."""
    description = f"{len(entries)} lines over {len(marks)} experiences; the numbers stand in the tables."
    named = len(entries) <= NAMED
    drawn = charts.lines(title, description, entries, axis, marks, named=named)
    below = f'<div class="instead">{charts.key(entries)}</div>' if named else key  # for narrow screens
    return f"<h3>{escape(title)}</h3>{drawn}{below}"


def _experiences(account: Account) -> list[Line]:
    """A line for each experience, and one for their mean."""
    count = account.learning
    crowded = count >= NAMED
    width = 1 if crowded else 1.75
    each = [
        Line(account.scores.name(j), _points(account, j), charts.age_colour(j, count), width=width)
        for j in range(count)
    ]
    if count > 1:
        # behind a few lines, or it would hide them; before many, or they would hide it
        mean = Line("average", _points(account, None), "var(--soft)", width=3 if crowded else 4)
        each.insert(count if crowded else 0, mean)
    return each


def _axis(accounts: Sequence[Account]) -> Axis:
    values = [value for account in accounts for value in account.moments.values.flatten().tolist()]
    known = [value for value in values if not math.isnan(value)]
    if accounts[0].scores.kind == "error":
        return charts.error_axis(max(known, default=1.0))
    return charts.percent_axis(min(known, default=0.0))


def _points(account: Account, on: int | None) -> list[tuple[float, float]]:
    """The values on one experience from when it is learned on, or (None) the means over those so far.

    Evaluations in the middle of an experience are spread evenly over it; the final one ends it.
    """
    afters = account.moments.after.tolist()
    points, place = [], 0
    for moment, after in enumerate(afters):
        place = place + 1 if moment and afters[moment - 1] == after else 1
        ended = bool(account.moments.final[account.moments.after == after].any())
        steps = afters.count(after) + (not ended)
        row = account.moments.values[moment]
        value = float(row[: after + 1].mean() if on is None else row[on])
        if (on is None or on <= after) and not math.isnan(value):
            points.append((after + place / steps, value))
    return points


def _wide(size: int) -> int:
    """The width in pixels that a matrix wants."""
    return 190 + 62 * size if size <= 5 else 160 + (48 if size <= 10 else 34) * size


def _heat(account: Account, full: float) -> str:
    matrix, scores = account.matrix, account.scores
    size = len(matrix)
    digits = 0 if size > 10 else 1
    names = [escape(scores.name(j)) for j in range(size)]
    few = size <= 5
    head = "".join(
        f'<th scope="col" title="{name}">{name if few and scores.names else j}</th>' for j, name in enumerate(names)
    )
    body = []
    for i, row in enumerate(matrix.tolist()):
        label = names[i] if few else f"{i}  {names[i]}" if scores.names else f"after {i}"
        cells = "".join(_cell(value, full, account, digits, own=i == j) for j, value in enumerate(row))
        mean = _number(float(matrix[i, : i + 1].mean()), account, digits)
        body.append(f'<tr><th scope="row" title="{names[i]}">{label}</th>{cells}<td class="mean">{mean}</td></tr>')
    return scroll(
        f"{account.name}: the {scores.kind} matrix",
        f'<table class="heat{" wide" if few else ""}"><thead><tr><td></td>{head}'
        f'<th scope="col" class="mean">mean</th></tr></thead><tbody>{"".join(body)}</tbody></table>',
    )


def _cell(value: float, full: float, account: Account, digits: int, *, own: bool) -> str:
    if math.isnan(value):
        return '<td class="none">·</td>'
    name = charts.value_class(value / full) + (" own" if own else "")
    return f'<td class="{name}">{_number(value, account, digits)}</td>'


def _number(value: float, account: Account, digits: int) -> str:
    if math.isnan(value):
        return wording.UNKNOWN
    return f"{value:.3g}" if account.scores.kind == "error" else f"{100 * value:.{digits}f}"


def _class_bars(account: Account) -> str:
    numbers = "".join(f'<th scope="col" class="number">{name}</th>' for name in ("before", "after", "change"))
    head = f'<thead><tr><th scope="col">class</th><td class="track"></td>{numbers}</tr></thead>'
    full = 1.0
    if account.scores.kind == "error":
        full = max(max(entry.before, entry.after) for entry in account.classes) or 1.0
    rows = [_class_row(entry, account, full) for entry in account.classes]
    return _folded(rows, "bars", head, "classes")


def _class_row(entry: ClassChange, account: Account, full: float) -> str:
    kind, name = account.scores.kind, escape(entry.name)
    numbers = (
        wording.level(entry.before, kind),
        wording.level(entry.after, kind),
        wording.difference(entry.change, kind),
    )
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    bar = charts.change_bar(entry.before, entry.after, full=full)
    return f'<tr><th scope="row" title="{name}">{name}</th><td class="track">{bar}</td>{cells}</tr>'


def _cost_bars(account: Account, longest: float, largest: float) -> str:
    columns = [
        (name, note, full, say)
        for name, note, full, say in (
            ("time", "seconds", longest, wording.duration),
            ("memory", "memory_bytes", largest, wording.size),
        )
        if full
    ]
    head = "".join(f'<td class="track"></td><th scope="col" class="number">{name}</th>' for name, *_ in columns)
    rows = []
    for after, noted in sorted(account.scores.notes.items()):
        cells = "".join(
            f'<td class="track">{charts.plain_bar(noted.get(note, 0.0), full=full)}</td>'
            f'<td class="number">{say(noted.get(note))}</td>'
            for _, note, full, say in columns
        )
        rows.append(f'<tr><th scope="row">{escape(account.scores.name(after))}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">experience</th>{head}</tr></thead>'
    return _folded(rows, "bars two" if len(columns) == 2 else "bars", head, "experiences")


def _folded(rows: Sequence[str], style: str, head: str, what: str) -> str:
    """The first rows as a table, and the others as a second one behind a summary."""
    opened = f'<table class="{style}">{head}<tbody>{"".join(rows[:SHOWN])}</tbody></table>'
    if len(rows) <= SHOWN:
        return opened
    rest = f'<table class="{style}">{head}<tbody>{"".join(rows[SHOWN:])}</tbody></table>'
    return f"{opened}<details><summary>The other {len(rows) - SHOWN} {what}</summary>{rest}</details>"
