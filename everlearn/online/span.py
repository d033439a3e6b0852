"""A stretch of a stream: of time, by what records say, or of rows."""

import math
import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]|seconds?)")
_ROWS = re.compile(r"\s*rows?$")


@dataclass(frozen=True)
class Span:
    """So many seconds (`timed`), or so many rows.

    >>> Span.of("7d"), Span.of(500)
    (Span(amount=604800.0, timed=True), Span(amount=500.0, timed=False))
    """

    amount: float
    timed: bool

    @classmethod
    def of(cls, value: object, what: str = "a span") -> "Span":
        """What `3d`, `12h`, `30m`, `15s`, `2w` or a number of rows says; `what` names it in errors."""
        text = str(value).strip().lower()
        if found := _TIME.fullmatch(text):
            return cls(float(found[1]) * _SECONDS[found[2][0]], timed=True)
        try:
            rows = float(_ROWS.sub("", text))
        except ValueError:
            rows = -1.0
        if isinstance(value, bool) or not 0 <= rows < math.inf or rows != int(rows):
            raise ValueError(f"{what} must be a time such as 7d, 12h, 30m, 15s or 2w, or whole rows, but is {value!r}")
        return cls(rows, timed=False)

    def __str__(self) -> str:
        """As people say it.

        >>> str(Span.of("36h")), str(Span.of("7d")), str(Span.of(1))
        ('36 h', '7 d', '1 row')
        """
        return said(self.amount, timed=self.timed)


def said(amount: float, *, timed: bool) -> str:
    """An age or a stretch, in the unit that suits it.

    >>> said(90000, timed=True), said(1234.4, timed=False), said(0, timed=True)
    ('25 h', '1,234 rows', '0 s')
    """
    if not timed:
        return f"{amount:,.0f} row" + "s" * (round(amount) != 1)
    unit = next((name for name in ("d", "h", "m") if amount >= 2 * _SECONDS[name]), "s")
    if amount and amount % _SECONDS["d"] == 0:
        unit = "d"
    return f"{amount / _SECONDS[unit]:.3g} {'min' if unit == 'm' else unit}"
