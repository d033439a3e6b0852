"""How numbers and findings are put into words."""

# ruff: noqa: RUF001 (a minus sign is meant)

from collections.abc import Sequence

from everlearn.metrics.account import Account
from everlearn.metrics.evaluate import Kind

UNKNOWN = "–"
"""Stands where nothing was measured."""


def level(value: float | None, kind: Kind = "accuracy") -> str:
    """An accuracy in percent, or an error in its own unit.

    >>> level(0.2895), level(0.01234567, "error"), level(None)
    ('28.9', '0.01235', '–')
    """
    if value is None or value != value:  # noqa: PLR0124 - nan
        return UNKNOWN
    return f"{100 * value:.1f}" if kind == "accuracy" else f"{value:.4g}"


def difference(value: float | None, kind: Kind = "accuracy") -> str:
    """A difference of accuracies in percentage points, or of errors, with its sign.

    >>> difference(-0.40506), difference(0.0), difference(0.02)
    ('−40.5', '0.0', '+2.0')
    """
    if value is None or value != value:  # noqa: PLR0124 - nan
        return UNKNOWN
    text = f"{100 * abs(value):.1f}" if kind == "accuracy" else f"{abs(value):.4g}"
    nothing = not float(text)
    return text if nothing else f"{'−' if value < 0 else '+'}{text}"


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it.

    >>> duration(0.0123), duration(75), duration(9000)
    ('12 ms', '1.2 min', '2.5 h')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def size(count: float | None) -> str:
    """A number of bytes in decimal units.

    >>> size(512), size(3_145_728)
    ('512 B', '3.1 MB')
    """
    if count is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def old(account: Account) -> str:
    """What the last update did to the experiences before it."""
    return _step(account.update.old_before, account.update.old_after, account.scores.kind)


def new(account: Account) -> str:
    """What the last update did for its own experience."""
    return _step(account.update.new_before, account.update.new_after, account.scores.kind)


def costs(accounts: Sequence[Account]) -> dict[str, list[str]]:
    """Time in all and memory at the end, account by account: what was noted of it."""
    rows = {
        "Time": [duration(account.total("seconds")) for account in accounts],
        "Memory": [size(account.latest("memory_bytes")) for account in accounts],
        "Past rows kept": [_number(account.latest("memory_rows")) for account in accounts],
    }
    return {name: cells for name, cells in rows.items() if any(cell != UNKNOWN for cell in cells)}


def summary(accounts: Sequence[Account]) -> str:
    """What the report shows, in a sentence.

    Several methods are ranked by what they know in the end.
    """
    known = [account for account in accounts if account.average is not None]
    if not known:
        return _in_part(accounts)
    kind = known[0].scores.kind
    if len(accounts) == 1:
        learned = "1 experience" if known[0].scores.learned == 1 else f"{known[0].scores.learned} experiences"
        return f"After {learned}, {known[0].name} has {_outcome(known[0], f'an average {kind} of ')}."
    ranked = sorted(known, key=lambda account: account.average or 0.0, reverse=kind == "accuracy")
    best, worst = ranked[0], ranked[-1]
    if best is not worst and _outcome(best) == _outcome(worst):
        return f"{len(known)} methods end alike, with {_outcome(best, f'an average {kind} of ')}."
    text = f"Of {len(accounts)} methods, {best.name} ends best, with {_outcome(best, f'an average {kind} of ')}"
    return f"{text}." if worst is best else f"{text}; {worst.name} ends last, with {_outcome(worst)}."


def _in_part(accounts: Sequence[Account]) -> str:
    """What there is to say where some experiences have no test rows, so that there is no average."""
    last = accounts[-1]
    found = [(last.scores.name(on), value) for on, value in enumerate(last.final) if value is not None]
    if not found:
        return "Nothing was measured after the last experience."
    kind, unit = last.scores.kind, " %" if last.scores.kind == "accuracy" else ""
    said = ", ".join(f"{level(value, kind)}{unit} on {name}" for name, value in found)
    bare = [last.scores.name(on) for on, value in enumerate(last.final) if value is None]
    return f"In the end, {last.name} has an {kind} of {said}; there are no test rows of {', '.join(bare)}."


def _outcome(account: Account, lead: str = "") -> str:
    kind = account.scores.kind
    text = f"{lead}{level(account.average, kind)}{' %' if kind == 'accuracy' else ''}"
    if account.forgetting is None:
        return text
    lost = difference(account.forgetting, kind)
    if lost[0] not in "+−":
        return f"{text} and nothing lost on earlier experiences"
    if kind == "error":
        side = "above" if lost[0] == "+" else "below"
        return f"{text}, {lost[1:]} {side} the best so far on earlier experiences"
    return f"{text} and {lost[1:]} points {'lost' if lost[0] == '+' else 'gained'} on earlier experiences"


def _step(before: float | None, after: float | None, kind: Kind) -> str:
    return level(after, kind) if before is None else f"{level(before, kind)} → {level(after, kind)}"


def _number(count: float | None) -> str:
    return UNKNOWN if count is None else f"{count:,.0f}"
