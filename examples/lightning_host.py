"""A method in a loop of Lightning: one fit for each experience.

python examples/lightning_host.py [EPOCHS]
"""

import logging
import sys
import warnings
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from everlearn import Balanced
from everlearn.batch import Rows
from everlearn.data import Columns
from everlearn.hosts.lightning import Continual  # first: it mends a torchvision that was made for another torch
from everlearn.methods import Replay
from everlearn.models import MLP
from everlearn.streams import by_class

# isort: split
import lightning


def loader(rows: Rows) -> DataLoader[int]:
    """Positions in random order, and for each sixteen of them a batch: a dict of columns."""
    return DataLoader(range(len(rows)), batch_size=16, shuffle=True, collate_fn=lambda at: rows.take(torch.tensor(at)))


def main(epochs: int) -> None:
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    rows = Columns(x=x, y=y, id=torch.arange(len(y)))
    lightning.seed_everything(0, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    model = MLP(inputs=64, hidden=(128, 64), outputs=10)
    host = Continual(model, Replay(Balanced(200), count=16), optimizer=partial(torch.optim.Adam, lr=0.003))
    switches = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    quiet = dict.fromkeys(switches, False)

    for host.experience in by_class(rows, rows, [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]):
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
        trainer.fit(host, loader(host.experience.train))
    host.eval()
    with torch.no_grad():
        print(f"{(host({'x': x}).argmax(1) == y).float().mean():.1%} of all rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
