"""A run that is killed with SIGKILL again and again, and always goes on: python torture.py FOLDER METHOD KILLS SEED.

The parent imports everything once and forks; each child resumes the run, and the parent kills it at a random time.
A run that finishes before its time is followed by another one. Prints how often a run was killed, and how many
runs that took.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from killing import kill_often

from everlearn.models import MLP, save_weights
from everlearn.workspace.config import make
from everlearn.workspace.opening import begin, resume


def prepare(folder: Path) -> None:
    """A deployed model for three classes, old data, and two arrivals with two new classes each."""
    folder.mkdir(parents=True, exist_ok=True)
    random_ = np.random.default_rng(0)
    centres = random_.normal(size=(7, 12)).astype(np.float32)
    for name, classes in {"old": (0, 1, 2), "first": (3, 4), "second": (5, 6), "test": range(7)}.items():
        y = np.repeat(np.array(classes), 20)
        x = centres[y] + 0.3 * random_.normal(size=(len(y), 12)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    torch.manual_seed(0)
    save_weights(MLP(inputs=12, hidden=(16, 16), outputs=3, dropout=0.2), folder / "deployed.pth")


def settings(folder: Path, out: str, method: str) -> dict[str, object]:
    data = {name: str(folder / f"{name}.npz") for name in ("old", "first", "second", "test")}
    return {
        "model": "everlearn.models:MLP(inputs=12, hidden=(16,16), outputs=3, dropout=0.2)",
        "weights": str(folder / "deployed.pth"),
        "data": [data["first"], data["second"]],
        "old": data["old"],
        "test": [data["test"]],
        "method": method,
        "out": str(folder / out),
        "epochs": 4,
        "batch_size": 8,
        "optimizer": "adam:lr=0.003",
        "scheduler": "cosine",
        "checkpoint_steps": 3,
        "checkpoint_seconds": 0.0,
        "threads": 1,
    }


def go_on(folder: Path, out: str, method: str) -> None:
    """What `everlearn learn` and `everlearn resume` do."""
    there = (folder / out / "config.json").is_file()
    run = resume(folder / out, print) if there else begin(make(settings(folder, out, method)))
    if not run.done:
        for _ in run.steps():
            pass


def main(folder: Path, method: str, kills: int, seed: int) -> None:
    prepare(folder)
    kill_often(lambda out: go_on(folder, out, method), kills, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
