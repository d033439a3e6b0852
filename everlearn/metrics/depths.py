"""The picture of a model that answers at several depths: what each exit weighed in its answers, over time."""

from collections.abc import Sequence
from html import escape

from everlearn.metrics.charts import age_colour, spread
from everlearn.metrics.colours import variables

Moment = tuple[float, Sequence[float]]
"""How many rows had come, and the weight of each exit then, from the input on."""

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BELOW = 52, 118, 50, 44
_MOST = 240
"""Moments that are drawn."""
_LEAST = 0.06
"""What an exit weighs at the end to be named; the first and the last always are."""

RULES = """
.depths text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
.depths .heading{font-size:14px;font-weight:600;fill:var(--ink)}
.depths .name{fill:var(--ink)}
.depths .area{stroke:var(--paper);stroke-width:.6;stroke-linejoin:round}
.depths .rule{fill:none;stroke:var(--line);stroke-width:1}
.depths .mark{fill:none;stroke:var(--ink);stroke-width:1;stroke-dasharray:3 4;opacity:.7}
.depths .lead{fill:none;stroke:var(--soft);stroke-width:.75;opacity:.6}
"""
"""For the page around it, which has the colours."""


def weights(
    title: str,
    names: Sequence[str],
    moments: Sequence[Moment],
    marks: Sequence[tuple[float, str]] = (),
    style: str = "",
) -> str:
    """Areas on top of each other, the exit nearest to the input at the bottom; they add up to 100 %.

    `names` are those of the exits, `marks` are lines at numbers of rows, with words. Every string is escaped.
    """
    if not moments or any(len(shares) != len(names) for _, shares in moments):
        raise ValueError(f"each moment needs a weight for each of the {len(names)} exits, and there must be one moment")
    every = -(-len(moments) // _MOST)
    drawn = [*moments[:-1:every], moments[-1]]
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BELOW
    begin, end = drawn[0][0], max(drawn[-1][0], drawn[0][0] + 1)

    def x(rows: float) -> float:
        return _LEFT + wide * (rows - begin) / (end - begin)

    def y(share: float) -> float:
        return _TOP + tall * (1 - share)

    heaps = [_heaped(shares) for _, shares in drawn]
    across = [x(rows) for rows, _ in drawn]
    if len(across) == 1:
        across, heaps = [_LEFT, _LEFT + wide], heaps * 2
    areas, last = [], drawn[-1][1]
    for i, name in enumerate(names):
        upper = [f"{at:.1f} {y(heap[i + 1]):.1f}" for at, heap in zip(across, heaps, strict=True)]
        lower = [f"{at:.1f} {y(heap[i]):.1f}" for at, heap in zip(across, heaps, strict=True)]
        course = "L".join([*upper, *reversed(lower)])
        areas.append(
            f'<path class="area" style="fill:{age_colour(i, len(names))}" d="M{course}Z">'
            f"<title>{escape(name)}: {100 * last[i]:.1f} % at the end</title></path>"
        )
    told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(names, last, strict=True))
    return (
        f'<svg class="depths" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="100%" style="max-width:{_WIDTH}px" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>At the end: {escape(told)}</desc>{style}"
        f'<text class="heading" x="{_LEFT}" y="18">{escape(title)}</text>'
        f"{''.join(areas)}{_axes(begin, end)}"
        f"{''.join(_mark(x(rows), word) for rows, word in marks)}{_names(names, heaps[-1])}</svg>"
    )


def svg(title: str, names: Sequence[str], moments: Sequence[Moment], marks: Sequence[tuple[float, str]] = ()) -> str:
    """The same as a file of its own, in light and dark."""
    style = (
        f"<style>:root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}"
        f".depths{{background:var(--paper)}}{RULES.strip()}</style>"
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{weights(title, names, moments, marks, style=style)}\n'


def _heaped(shares: Sequence[float]) -> list[float]:
    """The sums up to each exit, of shares that add up to 1.

    >>> _heaped([1.0, 3.0])
    [0.0, 0.25, 1.0]
    """
    heap, total = [0.0], sum(shares)
    for share in shares:
        heap.append(heap[-1] + share / total)
    return heap


def _axes(begin: float, end: float) -> str:
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BELOW
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        height = _TOP + tall * (1 - share)
        parts.append(f'<path class="rule" d="M{_LEFT - 4} {height:.1f}h4"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        rows = f"{begin + part * (end - begin):,.0f}"
        at = _LEFT + part * wide
        anchor = "end" if part == 1 else "middle"
        parts.append(f'<text x="{at:.1f}" y="{_TOP + tall + 18}" text-anchor="{anchor}">{rows}</text>')
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{_TOP + tall + 36}" text-anchor="middle">rows</text>')
    return "".join(parts)


def _mark(at: float, word: str) -> str:
    words = f'<text class="name" x="{at:.1f}" y="{_TOP - 6}" text-anchor="middle">{escape(word)}</text>' if word else ""
    return f'<path class="mark" d="M{at:.1f} {_TOP}v{_HEIGHT - _TOP - _BELOW}"/>{words}'


def _names(names: Sequence[str], heap: Sequence[float]) -> str:
    """Beside the end of each area that is high enough; of the others, how many there are."""
    tall, edge = _HEIGHT - _TOP - _BELOW, _WIDTH - _RIGHT
    shown = [i for i in range(len(names)) if heap[i + 1] - heap[i] >= _LEAST or i in (0, len(names) - 1)]
    middles = [1 - (heap[i] + heap[i + 1]) / 2 for i in reversed(shown)]
    parts = []
    for i, middle, place in zip(reversed(shown), middles, spread(middles, 15 / tall), strict=True):
        word = f"{names[i]}, {100 * (heap[i + 1] - heap[i]):.0f} %"
        parts.append(
            f'<path class="lead" d="M{edge} {_TOP + tall * middle:.1f}L{edge + 8} {_TOP + tall * place:.1f}"/>'
        )
        parts.append(f'<text class="name" x="{edge + 11}" y="{_TOP + tall * place + 4:.1f}">{escape(word)}</text>')
    if rest := len(names) - len(shown):
        share = 100 * (1 - sum(heap[i + 1] - heap[i] for i in shown))
        parts.append(f'<text x="{edge + 11}" y="{_HEIGHT - 8}">{rest} others, {share:.0f} %</text>')
    return "".join(parts)
