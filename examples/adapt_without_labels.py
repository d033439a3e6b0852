"""Digits with labels, and blurred, faint ones without: what is known of the second kind, with the control beside it.

python examples/adapt_without_labels.py [EPOCHS]
"""

import sys
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from everlearn import Balanced, Chain, Experience, Learner, Method
from everlearn.batch import UNLABELED
from everlearn.data import Columns, With
from everlearn.methods import CORAL, MCC, Naive, Replay
from everlearn.models import MLP


def two_domains() -> tuple[Columns, Columns]:
    """The digits, and others of them as a bad camera sees them."""
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    first, second = order[:900], order[900:]
    bad = 0.6 * F.avg_pool2d(x[second, None], 3, stride=1, padding=1).flatten(1) + 0.15
    return Columns(x=x[first].flatten(1), y=y[first]), Columns(x=bad, y=y[second])


def adapted(method: Method, source: Columns, target: Columns, epochs: int, *, beside: bool = True) -> Learner:
    torch.manual_seed(0)
    model = MLP(inputs=64, hidden=(128, 64), outputs=10)
    learner = Learner(model, method, optimizer=partial(torch.optim.Adam, lr=0.001), epochs=epochs)
    learner.learn(Experience(0, source, source, tuple(range(10))))
    unlabelled = With(target, y=UNLABELED)
    learner.learn(Experience(1, unlabelled, target, tuple(range(10)), reference=source if beside else None))
    return learner


def main(epochs: int) -> None:
    source, target = two_domains()
    methods = {
        "control: seen, not aligned": (Naive(), True),
        "coral": (CORAL(trade_off=100), True),
        "mcc": (MCC(), True),
        "er+mcc: beside a memory": (Chain(Replay(Balanced(300), count=32), MCC()), False),
    }
    print(f"{'':28} source  target")
    for name, (method, beside) in methods.items():
        learner = adapted(method, source, target, epochs, beside=beside)
        values = [learner.evaluate(rows).value for rows in (source, target)]
        print(f"{name:28} {values[0]:6.1%}  {values[1]:6.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
