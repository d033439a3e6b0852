"""Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019. arXiv:1908.04742.

Split MNIST with 1,000 rows a task, seen once in batches of 10, each with 10 old rows of 500 kept.
"""

from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.trained import Trained
from everlearn.bench.verdict import Ordering

PAPER = "Aljundi et al. 2019"
SPLIT = Trained(PAPER, "split", ("class-IL",), (400,), lr=0.05, batch_size=10, rows=1000)

NOTE = (
    "a draw may have rows of the task that is being learned, which the authors' code leaves out; for some seeds that "
    "makes ER worse"
)

ROWS = (
    Row(
        "mir-er",
        SPLIT,
        "er:memory=500,keep=reservoir,count=10,combine=sum",
        {"class-IL": Published(82.1, 1.5, 20)},
        8,
        2,
        NOTE,
    ),
    Row(
        "mir-mir",
        SPLIT,
        "mir:memory=500,keep=reservoir,count=10,subsample=50,virtual_lr=0.05,combine=sum",
        {"class-IL": Published(87.6, 0.7, 20)},
        8,
        4,
        NOTE,
    ),
)
ORDERINGS = (Ordering("mir-mir", "mir-er", 1.0, "class-IL", PAPER),)
