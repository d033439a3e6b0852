"""Numbers that leave no room: a published matrix, read; and a stream, whose right answers are counted."""

from everlearn.bench.golden import Read
from everlearn.bench.prequential import Prequential
from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.verdict import Ordering

MATRIX = {
    "average_accuracy": 28.95,
    "learning_accuracy": 67.43,
    "backward_transfer": -40.51,
    "forgetting": 40.57,
    "average_anytime_accuracy": 40.75,
    "minimum_accuracy": 21.64,
    "worst_case_accuracy": 24.38,
}
OCL = "ocl_survey: ER on Split CIFAR-100, seed 0"
RIVER = "river, its benchmark of binary tracks"

ROWS = (
    Row(
        "metrics",
        Read(OCL, "golden/er_split_cifar100_20.csv", tuple(MATRIX), tests=500),
        "",
        {name: Published(value, 0.0, 1, slack=0.005) for name, value in MATRIX.items()},
        seeds=1,
        cost=1,
        random=False,
        note="a published matrix of accuracies, read by our metrics; given to two digits",
    ),
    *(
        Row(
            f"stream-{name.lower()}",
            Prequential(RIVER, name),
            "",
            {"right": Published(right, 0.0, 1, slack=0.0)},
            seeds=1,
            cost=4,
            random=False,
            note=f"of {rows:,} answers; .8872 and .543208 of them in the documentation; exact, or wrong",
        )
        for name, right, rows in (("Phishing", 1109, 1250), ("Bananas", 2879, 5300))
    ),
)
ORDERINGS: tuple[Ordering, ...] = ()
