"""Rows come one small batch after another, classes come and go, and nobody says when: first the test, then the lesson.

python examples/stream_without_borders.py [ROWS]
"""

import sys
from functools import partial

import torch
from sklearn.datasets import load_digits

from everlearn import Balanced, Learner, Method
from everlearn.data import Columns, Concat, Subset, batches
from everlearn.methods import DERpp, Naive, Replay
from everlearn.models import MLP
from everlearn.streams import blurry

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


def main(most: int) -> None:
    digits = load_digits()
    rows = Columns(x=torch.tensor(digits.data / 16, dtype=torch.float32), y=torch.tensor(digits.target))
    # The mix of classes changes gradually; put one after the other, the parts have no borders.
    parts = Concat([experience.train for experience in blurry(rows, rows, PAIRS, width=0.3)])
    stream = Subset(parts, torch.arange(min(most, len(parts))))

    methods: dict[str, Method] = {
        "fine-tuning": Naive(),
        "er": Replay(Balanced(100), count=20),
        "derpp": DERpp(Balanced(100), count=20),
    }
    for name, method in methods.items():
        torch.manual_seed(0)
        model = MLP(inputs=64, hidden=(64,), outputs=10)
        learner = Learner(model, method, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
        right = 0
        for batch in batches(stream, torch.arange(len(stream)), 5):
            right += int((learner.predict(batch).argmax(1) == batch["y"]).sum())
            learner.observe(batch)
        after = learner.evaluate(rows).value
        print(f"{name:12} right before it was told: {right / len(stream):.1%}; on all rows afterwards: {after:.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1797)
