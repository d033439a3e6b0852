"""What was found, for those who read it: tables by source, as JSON, and on a page of the documentation."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from everlearn.bench.code import machine, versions
from everlearn.bench.row import Row
from everlearn.bench.running import Run
from everlearn.bench.statistics import MEANING
from everlearn.bench.verdict import HEADER, ORDERINGS, Line, Ordering
from everlearn.spec import parse_chain

Cells = Sequence[tuple[str, ...]]


def lines_of(rows: Sequence[Row], runs: Mapping[str, Sequence[Run]]) -> list[Line]:
    """A line for each score of each row that has runs, in the order of the rows."""
    return [
        Line(row, score, {run.seed: run.values[score] for run in runs[row.name]})
        for row in rows
        if runs.get(row.name)
        for score in runs[row.name][0].values
    ]


def tables(lines: Sequence[Line], orderings: Sequence[Ordering]) -> list[tuple[str, tuple[str, ...], Cells]]:
    """A title, a header and the cells: one table for each source, with what chance gives, and one of orderings."""
    made: list[tuple[str, tuple[str, ...], Cells]] = []
    for source, group in groupby(lines, key=lambda line: line.row.protocol.source):
        mine = list(group)
        chance = {pair for line in mine for pair in line.row.protocol.chance.items()}
        guesses = [("chance", score, f"{value:.2f}", "", "", "", "") for score, value in sorted(chance)]
        made.append((source, HEADER, [*(line.cells() for line in mine), *guesses]))
    if compared := [ordering.cells(lines) for ordering in orderings if ordering.verdict(lines)]:
        made.append(("orderings, seed by seed", ORDERINGS, compared))
    return made


def to_json(lines: Sequence[Line], orderings: Sequence[Ordering], runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    rows: dict[str, Any] = {}
    for line in lines:
        done, protocol = runs[line.row.name], line.row.protocol
        entry = rows.setdefault(
            line.row.name,
            {
                "source": protocol.source,
                "note": line.row.note,
                "chance": dict(protocol.chance),
                "scores": {},
                "made_with": {name: done[0].fingerprint[name] for name in ("config", "code", "data", "versions")},
                "machine": done[0].machine,
                "seconds": {str(run.seed): run.seconds for run in done},
            },
        )
        entry["scores"][line.score] = line.to_json()
    return {
        "statistics": MEANING,
        "versions": versions(),
        "machine": machine(),
        "rows": rows,
        "orderings": [ordering.to_json(lines) for ordering in orderings if ordering.verdict(lines)],
    }


def page(text: str, lines: Sequence[Line], orderings: Sequence[Ordering]) -> str:
    """The page `text` with the tables after its marks, up to `<!-- end -->`.

    After `<!-- published -->` come all lines of that page; after `<!-- published: er -->` those that have er in their
    method; after `<!-- published rows: amazon-* -->` those of rows with such names, whatever page they are of, with the
    orderings between them. A table of which no row was run stays as it is.
    """
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    made = f"`everlearn bench`, {datetime.now(UTC).date()}; {made}; {machine()['processor']}."
    usual = [line for line in lines if line.row.page == Row.page]

    def filled(found: re.Match[str]) -> str:
        method, rows = found[2], found[3]
        if rows is not None:
            mine = [line for line in lines if fnmatchcase(line.row.name, rows)]
        else:
            mine = [line for line in usual if method is None or method in _methods(line.row)]
        if rows is not None and not mine:
            return found[0]
        if method is None:
            parts = [f"### {t[:1].upper()}{t[1:]}\n\n{_table(top, rows)}" for t, top, rows in tables(mine, orderings)]
        else:
            parts = [_table(HEADER, [line.cells() for line in mine])] if mine else ["Not run."]
        said = "\n\n".join([*parts, f"Mean ± standard deviation over n seeds. {made}"])
        return f"{found[1]}\n{said}\n\n{found[4]}"

    text, count = re.subn(_MARK, filled, text, flags=re.DOTALL)
    if not count:
        raise ValueError(
            "the page must have <!-- published -->, <!-- published: METHOD --> or <!-- published rows: PATTERN -->, "
            "and <!-- end --> after it, each on a line of its own"
        )
    return text


_MARK = r"(<!-- published(?:: (\w+)| rows: (\S+))? -->\n).*?(<!-- end -->)"


def _methods(row: Row) -> set[str]:
    return {spec.name for spec in parse_chain(row.method)} if row.method else set()


def _table(header: tuple[str, ...], cells: Cells) -> str:
    rule = ("---", *("---:" if name in _RIGHT else "---" for name in header[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *cells))


_RIGHT = {"ours", "n", "theirs", "within", "difference", "at least"}
