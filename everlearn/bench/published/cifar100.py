"""CIFAR-100 in ten arrivals to MobileNetV2: what a frozen base, an adapted one, and tuning on and on are worth.

Nothing is published about this net on a fifth of the rows; the heads are those of Mensink et al. 2013, Hayes and Kanan
2020 and McDonnell et al. 2023, who also adapt to the first arrival, and LP-FT is of Kumar et al. 2022.
"""

from everlearn.bench.arriving import Arriving
from everlearn.bench.row import Row
from everlearn.bench.verdict import Ordering

SOURCE = "McDonnell et al. 2023, another net"

FROZEN = Arriving(SOURCE, "frozen")
ADAPTED = Arriving(SOURCE, "adapted", lr=0.0003)
TUNED = Arriving(SOURCE, "tuned")
GENTLY = Arriving(SOURCE, "tuned", lr=0.0003)
LPFT = "lpft:settled=true,C=0.01"

ROWS = (
    Row("cifar100-frozen", FROZEN, "", {}, 2, 60, page="transfer"),
    Row("cifar100-adapted", ADAPTED, LPFT, {}, 2, 120, page="transfer"),
    Row("cifar100-naive", TUNED, "naive", {}, 2, 300, page="transfer"),
    Row("cifar100-er", TUNED, "er:memory=1000,count=32", {}, 2, 450, page="transfer"),
    Row("cifar100-lpft-er", GENTLY, f"er:memory=1000,count=32+{LPFT},memory=1000", {}, 2, 500, page="transfer"),
)
ORDERINGS = (Ordering("cifar100-er", "cifar100-naive", 15.0, "accuracy", SOURCE),)
