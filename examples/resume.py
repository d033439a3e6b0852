"""A script that can be stopped at any instant, by Ctrl-C, SIGTERM or kill -9, and started again.

python examples/resume.py FOLDER [EPOCHS]

Whatever happened on the way, the last line is the same: a hash of the weights.
"""

import signal
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from everlearn import Balanced, Learner
from everlearn.checkpoint import Checkpoints
from everlearn.data import Columns
from everlearn.methods import Replay
from everlearn.models import MLP
from everlearn.stopping import terminating
from everlearn.streams import by_class


def main(folder: Path, epochs: int) -> None:
    digits = load_digits()
    rows = Columns(x=torch.tensor(digits.data / 16, dtype=torch.float32), y=torch.tensor(digits.target))
    stream = by_class(rows, rows, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])

    torch.manual_seed(0)
    learner = Learner(
        MLP(inputs=64, hidden=(128, 64), outputs=10, dropout=0.2),
        Replay(Balanced(200), count=16),
        optimizer=partial(torch.optim.Adam, lr=0.003),
        epochs=epochs,
        batch_size=16,
    )
    checkpoints = Checkpoints(folder, every_steps=20)
    if (state := checkpoints.load()) is not None:
        learner.load_state_dict(state)
        print(f"going on after step {learner.number}")

    with terminating(signal.SIGTERM, signal.SIGINT) as asked:
        for experience in stream[learner.experience :]:
            for _ in learner.steps(experience):
                if checkpoints.due() or asked():
                    checkpoints.save(learner.state_dict(), learner.number)
                if asked():
                    sys.exit("saved; start me again")
    weights = b"".join(value.numpy().tobytes() for value in learner.model.state_dict().values())
    print(f"{learner.evaluate(rows).value:.1%} of all rows; weights {sha256(weights).hexdigest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
