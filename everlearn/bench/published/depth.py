"""Depths from 2 to 20 layers on one stream, and 20 that hedge, as in Sahoo et al. 2018, on a fiftieth of the rows.

No layer is a linear model. The authors' code has no exit at the input; here both rules have it, so that they compare.
Nothing is published for a stream of this length: what is held to is that hedging does not fail where depth does.
"""

from everlearn.bench.depth import Depth
from everlearn.bench.row import Row
from everlearn.bench.verdict import Ordering

SOURCE = "Sahoo et al. 2018, in small"
LAYERS = (0, 2, 4, 8, 16, 20)
RULES = ("paper", "authors")
STREAMS = {"": True, "-still": False}
"""What names of rows say of the stream: whether the concept drifts."""


def _rows(words: str, drift: bool) -> list[Row]:
    plain = [
        Row(f"depth{words}-{layers}", Depth(SOURCE, layers, drift), "naive", {}, 5, 20 + 9 * layers, page="online")
        for layers in LAYERS
    ]
    return plain + [
        Row(f"depth{words}-hedge-{rule}", Depth(SOURCE, 20, drift), f"hedge:rule={rule}", {}, 5, 270, page="online")
        for rule in RULES
    ]


ROWS = tuple(row for words, drift in STREAMS.items() for row in _rows(words, drift=drift))
ORDERINGS = tuple(
    Ordering(f"depth{words}-20", f"depth{words}-hedge-{rule}", 5.0, "error", SOURCE)
    for words in STREAMS
    for rule in RULES
)
