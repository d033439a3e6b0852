"""Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, table 4. arXiv:1812.00420.

Permuted MNIST, 17 tasks of 55,000 rows, one epoch in batches of 10, 784-256-256-10, plain SGD; mean and standard
deviation of five runs. Progressive nets have a column for each permutation, and are told which one a row has.
"""

from dataclasses import replace

from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.trained import Trained
from everlearn.bench.verdict import Ordering

PAPER = "Chaudhry et al. 2019"
PERMUTED = Trained(
    PAPER, "permuted", ("domain-IL", "forgetting"), (256, 256), lr=0.03, batch_size=10, rows=55_000, domains=17
)


def _row(name: str, method: str, theirs: Published, forgetting: float, *, lr: float, cost: float) -> Row:
    published = {"domain-IL": theirs, "forgetting": Published(forgetting, 0.0, 5, slack=3.0)}
    return Row(f"agem-{name}", replace(PERMUTED, lr=lr), method, published, seeds=1, cost=cost)


ROWS = (
    _row("van", "naive", Published(47.9, 1.32, 5, slack=0.5), 51.0, lr=0.03, cost=95),
    _row("mas", "mas:lambda=0.1,rows=none", Published(69.6, 0.93, 5, slack=2.0), 27.0, lr=0.1, cost=130),
    _row("agem", "agem:memory=4250,count=256,rows=250", Published(89.1, 0.14, 5, slack=1.5), 6.0, lr=0.1, cost=400),
    replace(
        _row("pnn", "pnn", Published(93.5, 0.07, 5, slack=1.0), 0.0, lr=0.1, cost=950),
        protocol=replace(PERMUTED, lr=0.1, arrival="permuted by task"),
    ),
)
ORDERINGS = (Ordering("agem-agem", "agem-van", 30.0, "domain-IL", PAPER),)
