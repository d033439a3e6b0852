"""Labels come days later, or never; each finds the answer that was served for its row, and the world turns in between.

python examples/delayed_labels.py [ROWS]
"""

import random
import sys
from collections import deque

from everlearn.metrics.prequential import Prequential
from everlearn.online.ledger import Ledger
from everlearn.online.making import make_online
from everlearn.streams.feed import Record

HOUR, DAY = 3600.0, 86400.0


def run(rows: int, late: float) -> tuple[Prequential, Ledger]:
    """A row an hour; a tenth of the labels never comes, and the others come `late` seconds after their row."""
    online = make_online(model="mlp:hidden=32", optimizer="sgd:lr=0.05", seed=0)
    ledger, score = Ledger(expiry=7 * DAY), Prequential()
    draw = random.Random(0)  # noqa: S311 (it guards no secret)
    coming: deque[tuple[float, str, str]] = deque()
    for at in range(rows):
        now = at * HOUR
        fields = {"load": draw.gauss(0, 1), "heat": draw.gauss(0, 1)}
        turned = -1 if at >= rows // 2 else 1
        record = Record(f"row {at}", fields)
        (served,) = online.predict([record])
        ledger.serve(record, served, now)
        if draw.random() > 0.1:
            coming.append((now + late, record.id, "hot" if fields["load"] + turned * fields["heat"] > 0 else "fine"))
        while coming and coming[0][0] <= now:
            _, id_, label = coming.popleft()
            settled = ledger.label(id_, label, now)
            if settled is not None:  # it is neither late nor told before
                score.update(settled.prediction.answer or None, settled.label)
                online.learn([settled.record], [settled.label])
    return score, ledger


def main(rows: int) -> None:
    for name, late in (("at once", 0.0), ("a day late", DAY), ("five days late", 5 * DAY)):
        score, ledger = run(rows, late)
        counts = ledger.counts
        print(
            f"labels {name:15} {score.reading()['accuracy']:.1%} of {score.rows:,} rows were answered rightly; "
            f"{counts.expired:,} labels never came, {ledger.waiting:,} rows wait"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
