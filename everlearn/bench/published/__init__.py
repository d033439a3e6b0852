"""The rows that are rerun, a file for each paper, and the orderings between them."""

from everlearn.bench.published import (
    adaptation,
    agem,
    amazon,
    cifar100,
    closed,
    depth,
    exact,
    gss,
    hymenoptera,
    mammoth,
    mir,
    rehearsal,
    three_types,
)
from everlearn.bench.row import Row
from everlearn.bench.verdict import Ordering

_PAPERS = (
    exact,
    mammoth,
    three_types,
    agem,
    mir,
    gss,
    rehearsal,
    closed,
    hymenoptera,
    cifar100,
    amazon,
    adaptation,
    depth,
)

ROWS: dict[str, Row] = {row.name: row for paper in _PAPERS for row in paper.ROWS if row.there}
"""All rows by name; those whose method this version does not have are left out."""

ORDERINGS: tuple[Ordering, ...] = tuple(ordering for paper in _PAPERS for ordering in paper.ORDERINGS)

__all__ = ["ORDERINGS", "ROWS"]
