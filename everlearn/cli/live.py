"""What a person sees of a stream: a view that is always there in a terminal, else a line every few seconds."""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from everlearn.cli.show import console, resumable, say
from everlearn.online.quarantine import QuarantineError
from everlearn.online.service import Service
from everlearn.online.summary import done, milliseconds, write_summary
from everlearn.stopping import exit_code

_BLOCKS = "▁▂▃▄▅▆▇█"
_FRAME, _LINE = 0.25, 5.0
"""Seconds between two pictures, and between two lines."""


def serve(service: Service, stop: Callable[[], int]) -> None:
    """Works until the stream ends, or somebody asks it to `stop`: then it saves, writes the report, and leaves."""
    if done(service.folder):
        service.feed.close()
        say(f"The stream has ended, and all of it is learned: {service.folder / 'report.html'}")
        return
    show = Show(service, console)
    try:
        with resumable(service.folder), show, closing(service.steps(say)) as steps:
            for _ in steps:
                show()
                if stop():
                    service.save()
                    break
    except QuarantineError as error:
        write_summary(service)
        raise QuarantineError(
            f"{error}. See what is wrong with them, then go on: everlearn resume {service.folder} --bad-rows "
            f"{2 * service.quarantine.count}"
        ) from error
    finally:
        service.feed.close()
    page = write_summary(service)
    console.print(picture(service))
    if service.ended and not service.tally.rows:
        say(f"{service.feed.name} held no row that could be read; see that it is the right one")
    if service.tally.rows and not service.score.rows:
        say(
            "Nothing was learned, as no row got its label: it stands in the column --label (else label, y, target or "
            "class), or comes as a row of its own, with the id of the row that it belongs to"
        )
    if not service.ended:
        say(f"Saved. Go on with: everlearn resume {service.folder}")
    console.print(f"report    {page}", markup=False, soft_wrap=True)
    if not service.ended:
        sys.exit(exit_code(stop()))


class Show:
    """Called at each moment, it shows what there is to be seen, if it is time."""

    def __init__(self, service: Service, to: Console) -> None:
        self.service, self.to = service, to
        self._marks: deque[tuple[float, int]] = deque(maxlen=40)
        self._next = 0.0
        self._live = Live(console=to, auto_refresh=False, transient=True) if to.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        self._next = time.monotonic() + (_FRAME if self._live else _LINE)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self) -> None:
        """Shows it, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._marks.append((now, self.service.tally.rows))
        if self._live is not None:
            self._next = now + _FRAME
            self._live.update(picture(self.service, self.rate), refresh=True)
        else:
            self._next = now + _LINE
            self.to.print(line(self.service, self.rate), markup=False, soft_wrap=True)

    @property
    def rate(self) -> float:
        """Rows a second, of late."""
        (then, before), (now, rows) = self._marks[0], self._marks[-1]
        return (rows - before) / (now - then) if now > then else rows / max(self.service.spent, 1e-9)


def picture(service: Service, rate: float | None = None) -> RenderableType:
    """All that is worth watching, in a few lines."""
    tally, ledger, latency = service.tally, service.ledger, service.latency
    rate = tally.rows / max(service.spent, 1e-9) if rate is None else rate
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=8)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_row("rows", f"{tally.rows:,}, {rate:,.0f} a second; {service.learning.rows:,} learned" + _shed(service))
    if tally.rows:
        p50, p99 = (milliseconds(latency.quantile(share)) for share in (0.5, 0.99))
        table.add_row("latency", f"p50 {p50}, p99 {p99}")
    for name, text in _scores(service):
        table.add_row(name, text)
    counts = ledger.counts
    table.add_row(
        "labels",
        _several(
            (f"{ledger.waiting:,} rows wait for theirs", True),
            (f"{service.held:,} held back", service.held),
            (f"{counts.double:,} came twice", counts.double),
            (f"{counts.corrected:,} corrected", counts.corrected),
            (f"{counts.late:,} too late", counts.late),
            (f"{counts.expired:,} never came", counts.expired),
            (f"{counts.dropped:,} rows given up beyond --capacity", counts.dropped),
        ),
    )
    table.add_row("drift", _drift(service))
    table.add_row(
        "left out",
        Text(f"{_counted(tally.duplicates, 'duplicate')}, ").append(
            _counted(service.quarantine.count, "bad row"), style="yellow" if service.quarantine.count else ""
        ),
    )
    if service.feed.trouble:
        table.add_row("source", Text(f"waited for: {service.feed.trouble}", style="yellow"))
    table.add_row("memory", f"{_memory():,.0f} MB")
    title = Text(f"{service.feed.name} ", style="bold").append(f"→ {service.folder}", style="not bold dim")
    return Group(title, table)


def line(service: Service, rate: float) -> str:
    """The same in one line, for a log."""
    scores = ", ".join(f"{name} {text.plain}" for name, text in _scores(service, curve=False))
    p50, p99 = (milliseconds(service.latency.quantile(share)) for share in (0.5, 0.99))
    drift = service.learning.drift
    trouble = f"; the source is waited for: {service.feed.trouble}" if service.feed.trouble else ""
    return (
        f"{service.tally.rows:,} rows, {rate:,.0f}/s, p50 {p50}, p99 {p99}; {scores or 'no label yet'}; "
        f"{service.ledger.waiting:,} wait for a label, {_counted(drift.count if drift else 0, 'drift')}, "
        f"{_counted(service.tally.duplicates, 'duplicate')}, {_counted(service.quarantine.count, 'bad row')}"
        f"{_shed(service)}, {_memory():,.0f} MB{trouble}"
    )


def _scores(service: Service, *, curve: bool = True) -> list[tuple[str, Text]]:
    """The scores so far, and how they went."""
    if not service.score.rows:
        return []
    readings = service.score.reading()
    if service.score.kind == "accuracy":
        said = f"{100 * readings['accuracy']:.1f} %, last {service.score.window:,}: {100 * readings['windowed']:.1f} %"
        if "windowed_kappa_t" in readings:
            said += f", kappa-T {readings['windowed_kappa_t']:.2f}"
        name, key = "accuracy", "windowed"
    else:
        said = f"{readings['mae']:.4g}, last {service.score.window:,}: {readings['windowed_mae']:.4g}"
        name, key = "error", "windowed_mae"
    found = [(name, Text(said))]
    if curve and len(points := [value for _, value in service.score.curve(key)]) > 1:
        # without the beginning, which would make all else look flat
        found.append(("", Text(_spark(points[len(points) // 10 :], 60), style="cyan")))
    return found


def _spark(values: list[float], width: int) -> str:
    """A curve in one line of text: means of neighbours, the lowest at the bottom.

    >>> _spark([0, 1, 2, 3], 4)
    '▁▃▆█'
    """
    count = min(width, len(values))
    cuts = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    steps = [round((value - low) / ((high - low) or 1.0) * (len(_BLOCKS) - 1)) for value in means]
    return "".join(_BLOCKS[step] for step in steps)


def _drift(service: Service) -> Text:
    drift = service.learning.drift
    if drift is None:
        return Text("nobody looks", style="dim")
    noticed = [event for event in drift.events if event.detector]
    if not noticed:
        return Text("none")
    last = noticed[-1]
    return Text(f"{drift.count:,}, the last at row {last.at:,} ({last.detector})", style="yellow")


def _shed(service: Service) -> str:
    return f", {service.tally.shed:,} shed" if service.tally.shed else ""


def _several(*parts: tuple[str, object]) -> str:
    return ", ".join(text for text, there in parts if there)


def _memory() -> float:
    """What the process holds, in megabytes; where the system does not say, the most that it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)
