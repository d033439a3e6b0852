"""A method in a loop that you have already: three lines more than plain PyTorch.

python examples/your_own_loop.py [EPOCHS]
"""

import sys

import torch
from sklearn.datasets import load_digits

from everlearn import Chain, Memory, attached, classify
from everlearn.data import Columns
from everlearn.methods import EWC, Replay
from everlearn.models import MLP
from everlearn.streams import by_class


def main(epochs: int) -> None:
    digits = load_digits()
    rows = Columns(
        x=torch.tensor(digits.data / 16, dtype=torch.float32),
        y=torch.tensor(digits.target),
        id=torch.arange(len(digits.target)),  # by which a memory knows a row that comes again in the next epoch
    )
    torch.manual_seed(0)
    model = MLP(inputs=64, hidden=(128, 64), outputs=10)
    method = Chain(Replay(Memory(200), count=16), EWC(lambda_=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    for experience in by_class(rows, rows, [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]):
        method.begin(model, experience, classify)  # 1
        with attached(method, model, optimizer):  # 2
            for _ in range(epochs):
                for index in torch.randperm(len(experience.train)).split(16):
                    output = method(model, experience.train.take(index), classify)  # instead of the loss itself
                    output.loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
        method.end(model, experience, classify)  # 3

        right = classify(model, rows.take(torch.arange(len(rows)))).logits.argmax(1) == rows.column("y")
        seen = torch.as_tensor(rows.column("y")) <= max(experience.classes)
        print(f"after {experience.classes}: {right[seen].float().mean():.1%} of all rows seen so far")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
