"""What a backtest found: JSON, a table in the terminal, and a page."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.backtest.cells import COLUMNS, cells
from everlearn.backtest.page import page
from everlearn.backtest.verdict import Verdict, summary
from everlearn.metrics.written import written

if TYPE_CHECKING:
    from rich.table import Table

_NAME = 20
"""What is left at least for the names of policies, in a table for a terminal."""
_LEAST = ("age", "updates", "kept", "kappa-T", "worst class", "trained", "learning", "behind the best")
"""The columns that go first where there is no room for all."""


@dataclass(frozen=True)
class Report:
    """A verdict, and the facts of how it came about, as JSON values."""

    title: str
    verdict: Verdict
    facts: Mapping[str, object]
    timed: bool
    """Whether ages are seconds; else they are rows."""

    def to_json(self) -> dict[str, Any]:
        """All that was found, as plain values. Two runs of the same differ in seconds alone, and in advice by them."""
        verdict = self.verdict
        return {
            "title": self.title,
            "summary": summary(verdict),
            "facts": dict(self.facts),
            "error": "mean absolute error" if verdict.regression else "share of wrong answers",
            "ages": "seconds" if self.timed else "rows",
            "best": verdict.best.name,
            "tied": [each.name for each in verdict.tied],
            "advised": verdict.advised.name,
            "policies": {each.name: each.to_json() for each in verdict.outcomes},
            "behind": {name: asdict(each) for name, each in verdict.behind.items()},
            "definitions": {column.title: column.meaning for column in COLUMNS},
        }

    def table(self, width: int = 200) -> "Table":
        """A line for each policy, the best first; columns that find no room in `width` characters are named below."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is needed here only
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table(title=Text(self.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        rows = [cells(outcome, self.verdict, timed=self.timed) for outcome in self.verdict.outcomes]
        shown = [column for column in COLUMNS if column.shown(self.verdict)]
        wide = {
            column: max(map(len, [*column.title.split(maxsplit=1), *(row[column.title] for row in rows)]))
            for column in shown
        }
        left_out = []
        while sum(wide[column] + 3 for column in shown) > width - _NAME and len(shown) > 2:
            left_out.append(min(shown[1:], key=lambda column: _LEAST.index(column.title)))
            shown.remove(left_out[-1])
        grid.add_column("policy", overflow="fold")
        for column in shown:
            grid.add_column(Text(column.title.replace(" ", "\n", 1)), justify="right", no_wrap=True)
        if left_out:
            names = ", ".join(column.title for column in left_out)
            grid.caption, grid.caption_justify = Text(f"For want of room only in the report: {names}."), "left"
        tied = self.verdict.tied
        for outcome, row in zip(self.verdict.outcomes, rows, strict=True):
            style = "bold" if outcome is self.verdict.best else "" if outcome in tied else "dim"
            grid.add_row(Text(outcome.name), *(Text(row[column.title]) for column in shown), style=style)
        return grid

    def to_html(self) -> str:
        """One HTML file with everything in it: no script, nothing from outside."""
        return page(self.title, self.verdict, self.facts, timed=self.timed)

    def write(self, folder: str | Path) -> Path:
        """Writes `report.json` and, last, `report.html` into `folder`, each whole or not at all; returns the page."""
        return written(folder, self.to_json(), self.to_html())
