"""The main job on bundled real data: scikit-learn's 1,797 digits of 8x8 pixels."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch

from everlearn.cli.show import console, histories, work
from everlearn.data import load, view
from everlearn.learner import Learner
from everlearn.models import MLP, save_weights
from everlearn.streams import Experience
from everlearn.workspace.config import make
from everlearn.workspace.opening import begin

MODEL = "everlearn.models:MLP(inputs=64, hidden=(128, 64), outputs=5)"
FIRST = "digits-0-4.npz"
ARRIVALS = {"digits-5-6": (5, 6), "digits-7-8": (7, 8), "digit-9": (9,)}
TRAIN = 1347
"""Three quarters of the digits; the others are for testing."""
EPOCHS = 20
THREADS = 1
"""More only wait for each other on nets this small, and where other programs work, they wait for long."""
MADE = (
    *("config.json", "checkpoints", "lock", "model.pth", "model.safetensors", "memory.checkpoint"),
    *("report.html", "report.json", "deployed.safetensors", "data"),
)
"""What a demo leaves, in the order in which the next one removes it: the mark that it is one goes last."""


def demonstrate(out: Path, method: str) -> None:
    """Trains a model on the digits 0-4, then teaches it the others as `everlearn learn` does."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("the demo uses scikit-learn's digits: pip install 'everlearn[demo]'") from error
    _clear(out)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.images * 15.9).astype(np.uint8)[order][:, None], digits.target[order]
    data = out / "data"
    data.mkdir(parents=True)
    learn, test = np.arange(len(y)) < TRAIN, np.arange(len(y)) >= TRAIN
    np.savez(data / FIRST, x=x[learn & (y < 5)], y=y[learn & (y < 5)])
    np.savez(data / "test.npz", x=x[test], y=y[test])
    for name, labels in ARRIVALS.items():
        mine = learn & np.isin(y, labels)
        np.savez(data / f"{name}.npz", x=x[mine], y=y[mine])

    console.print("1. A model is trained on the digits 0 to 4, and deployed.")
    weights = _deploy(data / FIRST, out / "deployed.safetensors")
    console.print("2. The digits 5-6, 7-8 and 9 arrive one after another, and are learned as they come.\n")
    config = make(
        {
            "model": MODEL,
            "weights": str(weights),
            "data": [str(data / f"{name}.npz") for name in ARRIVALS],
            "old": str(data / FIRST),
            "test": [str(data / "test.npz")],
            "out": str(out),
            "method": method,
            "compare": True,
            "epochs": EPOCHS,
            "optimizer": "sgd:lr=0.02,momentum=0.9",
            "threads": THREADS,
        }
    )
    work(begin(config), quiet=True, tables=histories)


def _deploy(path: Path, weights: Path) -> Path:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    source = load(path)
    model = MLP(inputs=64, hidden=(128, 64), outputs=5)
    learner = Learner(
        model,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        epochs=EPOCHS,
        view=view(normalize="unit"),
    )
    learner.learn(Experience(0, source.rows, source.rows, tuple(range(5))))
    save_weights(model, weights, classes=source.names)
    return weights


def _clear(out: Path) -> None:
    """Makes room for a new demo where an earlier one was, and nowhere else."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "data" / FIRST).is_file():
        raise ValueError(f"{out} is not empty and holds no earlier demo; choose another folder with --out")
    for name in MADE:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
