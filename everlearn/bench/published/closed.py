"""Heads in closed form on the raw pixels of Split MNIST: the numbers follow from the data, whatever the order.

They are no paper's, but those of an independent computation of the same solutions from all rows at once; the methods
are those of Mensink et al. 2013, Hayes and Kanan 2020, Zhuang et al. 2022 and McDonnell et al. 2023.
"""

from everlearn.bench.counted import Counted
from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.verdict import Ordering

PIXELS = Counted("batch solutions, computed apart")


def _row(name: str, method: str, mean: float, *, slack: float = 0.02, cost: float = 6) -> Row:
    random = name == "ranpac"
    published = {"accuracy": Published(mean, 0.1 if random else 0.0, 2, slack)}
    return Row(f"pixels-{name}", PIXELS, method, published, 2 if random else 1, cost, random=random)


ROWS = (
    _row("ncm", "ncm", 82.03),
    _row("slda", "slda:eps=1e-4", 87.36),
    _row("slda-paper", "slda:eps=1e-4,exact=false", 87.37),
    _row("ridge", "ridge:lambda=1", 85.34),
    _row("ranpac", "ranpac:M=2000,lambda=100,holdout=0", 95.9, slack=0.2, cost=30),
)
ORDERINGS: tuple[Ordering, ...] = ()
