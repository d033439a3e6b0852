"""What runs did, for people and for programs: JSON, a table in the terminal, and a page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.metrics.account import Account
from everlearn.metrics.catalogue import READINGS
from everlearn.metrics.page import page
from everlearn.metrics.scores import Scores
from everlearn.metrics.table import table
from everlearn.metrics.wording import summary
from everlearn.metrics.written import written

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Report:
    """What one or several runs did: `runs` are their scores by the name of the method.

    `facts` say how they were made (configuration, versions, seeds), as JSON values. All runs have one kind of
    score.

    >>> scores = Scores.of([[0.9, float("nan")], [0.5, 0.8]], counts=100)
    >>> report = Report("Two tasks", {"fine-tuning": scores})
    >>> report.to_json()["runs"]["fine-tuning"]["average_accuracy"]
    0.65
    """

    title: str
    runs: Mapping[str, Scores]
    facts: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {name: scores.kind for name, scores in self.runs.items()}
        if not kinds:
            raise ValueError("a report needs at least one run")
        if len(set(kinds.values())) > 1:
            raise ValueError(f"one report shows one kind of score, but these runs have {kinds}")
        try:
            json.dumps(dict(self.facts), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"facts must be JSON values (numbers, strings, lists, dicts), but: {error}") from error

    @cached_property
    def accounts(self) -> tuple[Account, ...]:
        """What the scores say, run by run, as they stand when this is first asked."""
        return tuple(Account.of(name, scores) for name, scores in self.runs.items())

    def to_json(self) -> dict[str, Any]:
        """The raw scores, all readings by id, and the definitions behind the ids, as plain JSON values."""
        return {
            "title": self.title,
            "summary": summary(self.accounts),
            "facts": dict(self.facts),
            "runs": {account.name: account.to_json() for account in self.accounts},
            "definitions": {
                name: {
                    "name": reading.name,
                    "definition": reading.definition,
                    "equation": reading.equation,
                    "source": reading.source,
                }
                for name, reading in READINGS.items()
            },
        }

    def to_terminal(self, console: "Console | None" = None) -> None:
        """Prints a table and the summary to `console`, by default the terminal."""
        from rich.console import Console  # noqa: PLC0415 - rich is needed here only
        from rich.text import Text  # noqa: PLC0415

        console = console or Console()
        console.print(table(self.title, self.accounts))
        console.print(Text(summary(self.accounts)))

    def to_html(self) -> str:
        """One HTML file with everything in it: no script, nothing from outside."""
        return page(self.title, self.accounts, self.facts)

    def write(self, folder: str | Path) -> Path:
        """Writes `report.json` and `report.html` into `folder`, whole or not at all; returns the page."""
        return written(folder, self.to_json(), self.to_html())
