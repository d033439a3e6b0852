"""The report in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from everlearn.metrics import wording
from everlearn.metrics.account import Account

if TYPE_CHECKING:
    from rich.table import Table


def table(title: str, accounts: Sequence[Account]) -> "Table":
    """Experiences by methods: the value on each after the last one, the average, the forgetting, the cost."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is needed here only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    kind = accounts[0].scores.kind
    unit = "%" if kind == "accuracy" else "mean squared error"
    grid = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column(f"after the last experience, {unit}", no_wrap=True, overflow="ellipsis")
    for account in accounts:
        grid.add_column(Text(account.name), justify="right", no_wrap=True)

    def row(name: str, cells: Sequence[str], *, end: bool = False, style: str = "") -> None:
        grid.add_row(Text(name), *cells, end_section=end, style=style)

    longest = max(accounts, key=lambda account: len(account.matrix))
    for on in range(len(longest.matrix)):
        values = [account.final[on] if on < len(account.final) else None for account in accounts]
        row(
            longest.scores.name(on),
            [wording.level(v, kind) for v in values],
            end=on == len(longest.matrix) - 1,
        )
    row(f"average {kind}", [wording.level(account.average, kind) for account in accounts], style="bold")
    points = "forgetting, points" if kind == "accuracy" else "forgetting"
    row(points, [wording.difference(account.forgetting, kind) for account in accounts], end=True, style="bold")
    row("last update: old experiences", [wording.old(account) for account in accounts])
    row("last update: new experience", [wording.new(account) for account in accounts], end=True)
    for name, cells in wording.costs(accounts).items():
        row(name.lower(), cells)
    return grid
