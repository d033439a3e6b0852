"""Ten digits arrive in pairs: what fine-tuning, replay, and replay with distillation remember of them.

python examples/class_incremental.py [EPOCHS]
"""

import sys
from functools import partial

import torch
from sklearn.datasets import load_digits

from everlearn import Balanced, Chain, Experience, Learner, Method
from everlearn.data import Columns, Subset
from everlearn.methods import GrowHead, LwF, Naive, Replay
from everlearn.metrics import Report, Scores
from everlearn.models import MLP
from everlearn.streams import by_class

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


def pairs_of_digits() -> list[Experience]:
    digits = load_digits()
    rows = Columns(x=torch.tensor(digits.data / 16, dtype=torch.float32), y=torch.tensor(digits.target))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return by_class(Subset(rows, order[:1400]), Subset(rows, order[1400:]), PAIRS)


def learned(method: Method, stream: list[Experience], epochs: int) -> Scores:
    torch.manual_seed(0)  # each method starts from the same weights
    learner = Learner(
        MLP(inputs=64, hidden=(128, 64), outputs=2),
        Chain(GrowHead(), method),
        optimizer=partial(torch.optim.Adam, lr=0.003),
        epochs=epochs,
        batch_size=16,
    )
    scores = Scores(names=[f"{first}-{second}" for first, second in PAIRS])
    for experience in stream:
        learner.learn(experience)
        for on, other in enumerate(stream):
            scores.add(learner.evaluate(other.test), after=experience.index, on=on, step=learner.number)
    return scores


def main(epochs: int) -> None:
    stream = pairs_of_digits()
    methods = {
        "fine-tuning": Naive(),
        "er": Replay(Balanced(200), count=16),
        "er+lwf": Chain(Replay(Balanced(200), count=16), LwF(lambda_o=0.1)),
    }
    Report(
        "Five pairs of digits", {name: learned(method, stream, epochs) for name, method in methods.items()}
    ).to_terminal()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
