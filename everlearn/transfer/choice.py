"""What came of choosing a base: the bases with their scores and costs, and a strategy, as text, table, JSON or page."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everlearn.transfer.picture import page, svg
from everlearn.transfer.scores import CAUTION
from everlearn.transfer.strategy import Proposal

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Candidate:
    """What is known of one base."""

    name: str
    weights: str | None
    licence: str | None
    """Of the weights; None where nobody said."""
    scores: dict[str, float]
    rank: float
    """The mean, over the scores, of its place among the bases; 1 is the best."""
    latency: float
    """Milliseconds a row on this machine: the median over repetitions, in batches."""
    parameters: int
    weight_bytes: int
    activation_bytes: int
    """What the layers give out for one row, all together: what training has to keep."""
    width: int
    """Of the features."""
    input_size: tuple[int, int, int] | None
    """(channels, height, width) that the features were computed at."""


@dataclass(frozen=True)
class Choice:
    """The bases, the best first, and a strategy for the first of them."""

    candidates: tuple[Candidate, ...]
    proposal: Proposal
    scores: tuple[str, ...]
    rows: int
    """That the scores were computed on."""
    of: int
    """Labelled rows that there are."""
    classes: int
    machine: str

    @property
    def best(self) -> Candidate:
        """The first."""
        return self.candidates[0]

    def summary(self) -> str:
        """In a few sentences."""
        method = f" with {self.proposal.method}" if self.proposal.method not in {"", self.proposal.strategy} else ""
        return (
            f"Begin with {self.best.name}, by {self.proposal.strategy}{method}: {self.proposal.reason} "
            f"({self.proposal.source})."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "best": self.best.name,
            "summary": self.summary(),
            "caution": CAUTION,
            "strategy": self.proposal.to_json(),
            "scores": list(self.scores),
            "rows": self.rows,
            "of": self.of,
            "classes": self.classes,
            "machine": self.machine,
            "candidates": [dict(vars(candidate)) for candidate in self.candidates],
        }

    def table(self) -> "Table":
        """The candidates as a table for a terminal."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is needed here only
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        grid.add_column("base", overflow="fold", ratio=1)
        for name in ("rank", *self.scores, "ms/row"):
            grid.add_column(name, justify="right", no_wrap=True)
        for row in self.cells()[1:]:
            name, *numbers, parameters, megabytes, licence = row
            about = f"\n{parameters} parameters, {megabytes} MB, licence: {licence}"
            grid.add_row(Text(name).append(about, style="dim"), *numbers, end_section=True)
        return grid

    def cells(self) -> list[tuple[str, ...]]:
        """What tables show: a header, and a line for each base."""
        head = ("base", "rank", *self.scores, "ms/row", "params", "MB", "licence")
        return [head, *(self._line(one) for one in self.candidates)]

    def _line(self, one: Candidate) -> tuple[str, ...]:
        size = "" if one.input_size is None else f" at {'x'.join(map(str, one.input_size[1:]))}"
        return (
            one.name + ("" if one.weights else " (no weights)") + size,
            f"{one.rank:.3g}",
            *(f"{one.scores[name]:.3f}" for name in self.scores),
            f"{one.latency:.3g}",
            f"{one.parameters / 1e6:.3g} M",
            f"{(one.weight_bytes + one.activation_bytes) / 1e6:,.1f}",
            one.licence or "unknown",
        )

    def to_svg(self) -> str:
        """Each score against the cost, as one picture."""
        return svg(self)

    def to_html(self) -> str:
        """One page with all of it: no script, nothing from outside."""
        return page(self)
