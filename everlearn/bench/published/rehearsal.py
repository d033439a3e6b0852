"""What is stored decides: iCaRL as in van de Ven et al. 2022, GDumb as in the baselines of Avalanche.

The baselines (github.com/ContinualAI/continual-learning-baselines) accept three points either way; their inputs are
normalised by mean and standard deviation.
"""

from dataclasses import replace

from everlearn.bench.published import three_types
from everlearn.bench.row import Row
from everlearn.bench.statistics import Published
from everlearn.bench.trained import Trained
from everlearn.bench.verdict import Ordering

GDUMB = Trained(
    "continual-learning-baselines", "split", ("class-IL",), (400, 400), lr=0.1, batch_size=500, normalize="mnist"
)
_GDUMB = "gdumb:memory=4400,keep=balanced,lr=0.1,lr_min=0.1,epochs=10,batch_size=16,momentum=0,weight_decay=0"

ROWS = (
    Row(
        "class-icarl",
        three_types.CLASS,
        "icarl:m=100,T=2",
        {"class-IL": Published(92.49, 0.12 * 20**0.5, 20, slack=1.5)},
        3,
        110,
        note="exemplars join each batch in the proportion in which the authors mix them into the new rows",
    ),
    Row("gdumb", GDUMB, _GDUMB, {"class-IL": Published(97.0, 0.0, 1, slack=3.0)}, 3, 30),
    Row(
        "gdumb-raw",
        replace(GDUMB, normalize="unit"),
        _GDUMB,
        {},
        3,
        30,
        note="the same with pixels in [0, 1], as other code bases have them",
    ),
)
ORDERINGS = (Ordering("gdumb", "gdumb-raw", 0.0, "class-IL", "inputs matter"),)
