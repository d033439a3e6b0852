"""Each row is answered before it is learned; in the middle a new sensor and a new class turn up, and get room.

python examples/online_stream.py [ROWS]
"""

import random
import sys
from collections.abc import Iterator

from everlearn.metrics.prequential import Prequential
from everlearn.online.making import make_online
from everlearn.streams.feed import Record


def machines(rows: int) -> Iterator[tuple[Record, str]]:
    """Machines run hot; from the middle on there is a sensor of noise, and some are worn."""
    draw = random.Random(0)  # noqa: S311 (it guards no secret)
    for at in range(rows):
        load, heat = draw.gauss(0, 1), draw.gauss(20, 5)
        fields: dict[str, object] = {"load": load, "heat": heat, "site": draw.choice(["north", "south"])}
        label = "hot" if load + heat / 5 > 4 else "fine"
        if at >= rows // 2:
            fields["noise"] = draw.gauss(40, 10)
            label = "worn" if fields["noise"] > 45 else label  # type: ignore[operator]
        yield Record(f"row {at}", fields), label


def main(rows: int) -> None:
    methods = ("naive", "er:memory=200,count=10")
    engines = {method: make_online(model="mlp:hidden=32", method=method, optimizer="sgd:lr=0.05") for method in methods}
    scores = {method: Prequential(window=rows // 4) for method in methods}
    for record, label in machines(rows):
        for method, online in engines.items():
            (served,) = online.predict([record])
            scores[method].update(served.answer or None, label)
            online.learn([record], [label])
    for method, score in scores.items():
        reading = score.reading()
        print(
            f"{method:24} right before it was told: {reading['accuracy']:.1%}, of the last quarter "
            f"{reading['windowed']:.1%} (no-change {reading['windowed_no_change']:.1%}); "
            f"worn: {reading['recall[worn]']:.1%}"
        )
    encoder = engines[methods[0]].encoder
    print(", ".join(encoder.columns), "->", ", ".join(encoder.classes.names))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
