"""Blitzer et al., Biographies, Bollywood, Boom-boxes and Blenders, ACL 2007: sentiment in four domains, one by one.

Nothing is published about this small net on these streams.
"""

from everlearn.bench.reviews import Reviewed
from everlearn.bench.row import Row
from everlearn.bench.verdict import Ordering

SOURCE = "Blitzer et al. 2007, another protocol"
LABELLED = Reviewed(SOURCE)
BESIDE = Reviewed(SOURCE, labelled=False, reference=True)
KEPT = Reviewed(SOURCE, labelled=False)

ROWS = (
    Row("amazon-naive", LABELLED, "naive", {}, 5, 20, page="transfer"),
    Row("amazon-er", LABELLED, "er:memory=500,count=32", {}, 5, 30, page="transfer"),
    Row("amazon-ewc", LABELLED, "ewc:lambda=1000,step=proximal,eta=0.1", {}, 5, 30, page="transfer"),
    Row(
        "amazon-unlabelled-control",
        BESIDE,
        "naive",
        {},
        5,
        30,
        note="the same rows are seen, nothing is aligned",
        page="transfer",
    ),
    Row("amazon-unlabelled-dann", BESIDE, "dann:hidden=64", {}, 5, 40, page="transfer"),
    Row(
        "amazon-unlabelled-er+dann",
        KEPT,
        "er:memory=500,count=32+dann:hidden=64",
        {},
        5,
        40,
        note="the reference is the replay memory",
        page="transfer",
    ),
)
ORDERINGS = (Ordering("amazon-er", "amazon-naive", -1.0, "accuracy", SOURCE),)
