"""van de Ven, Tuytelaars and Tolias, Three types of incremental learning, Nature Machine Intelligence 2022.

Split MNIST, 784-400-400, Adam, 2,000 batches of 128 a context. The paper gives the standard error of 20 seeds; here it
is a standard deviation, sqrt(20) times as much. The digits of a context are drawn by the seed.
"""

from dataclasses import replace

from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.trained import Score, Trained
from everlearn.bench.verdict import Ordering

PAPER = "van de Ven et al. 2022"
TASK = Trained(
    PAPER, "split by task", ("task-IL",), (400, 400), lr=1e-3, batch_size=128, optimizer="adam", steps=2000
)  # fmt: skip
DOMAIN = replace(TASK, arrival="split by domain", scores=("domain-IL",))
CLASS = replace(TASK, arrival="split by class", scores=("class-IL",))

ER = "er:memory=1000,keep=balanced,count=128,combine=1/k"
NOTE_ER = (
    "rows are kept as they come, 1,000 in all, where theirs come 100 a class when a context ends; and a draw is of 128 "
    "from all contexts, where theirs, with task labels, is as much from each"
)
NOTE_LWF = "lambda_o = 1/4: their distillation has no factor T^2 = 4"
NULL = "without memory there is nothing to be had here: a high value means that the past leaks in"


def _row(
    name: str, protocol: Trained, method: str, mean: float, error: float, *, slack: float = 1.0, cost: float = 60,
    note: str = "",
) -> Row:  # fmt: skip
    score: Score = protocol.scores[0]
    return Row(name, protocol, method, {score: Published(mean, error * 20**0.5, 20, slack)}, 3, cost, note)


def _joint(protocol: Trained) -> Trained:
    return replace(protocol, joint=True, steps=10_000)


ROWS = (
    _row("task-none", TASK, "naive", 84.32, 0.99),
    _row("task-joint", _joint(TASK), "naive", 99.67, 0.03, slack=0.3),
    _row("task-ewc", TASK, "ewc:lambda=100000,rows=none", 99.06, 0.15, slack=0.5, cost=110),
    _row("task-si", TASK, "si:c=10,xi=0.1", 99.20, 0.11, slack=0.5, cost=100),
    _row("task-lwf", TASK, "lwf:lambda_o=0.25", 99.60, 0.03, slack=0.2, cost=90, note=NOTE_LWF),
    _row("task-er", TASK, ER, 98.98, 0.07, slack=0.4, cost=110, note=NOTE_ER),
    _row("domain-none", DOMAIN, "naive", 60.13, 1.66),
    _row("domain-joint", _joint(DOMAIN), "naive", 98.59, 0.05, slack=0.5),
    _row("domain-er", DOMAIN, ER, 93.75, 0.24, cost=110, note=NOTE_ER),
    _row("class-none", CLASS, "naive", 19.89, 0.02, slack=0.3),
    _row("class-joint", _joint(CLASS), "naive", 98.17, 0.04, slack=0.5),
    _row("class-ewc", CLASS, "ewc:lambda=1e9,rows=none", 20.64, 0.52, cost=110, note=NULL),
    _row("class-si", CLASS, "si:c=5000,xi=0.1", 21.20, 0.57, cost=100, note=NULL),
    _row("class-lwf", CLASS, "lwf:lambda_o=0.25", 21.89, 0.32, cost=80, note=NOTE_LWF),
    _row("class-er", CLASS, ER, 88.79, 0.20, cost=110, note=NOTE_ER),
)
ORDERINGS = tuple(
    Ordering(f"task-{higher}", "task-none", 5.0, "task-IL", PAPER) for higher in ("ewc", "si", "lwf", "er")
)
