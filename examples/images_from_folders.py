"""A model for some classes, and a folder of images of new ones: one folder a class, known by name.

python examples/images_from_folders.py FOLDER

FOLDER has old/CLASS/*.png and new/CLASS/*.png; where there is none, digits are written there first.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits

from everlearn import Balanced, Chain, Experience, Learner
from everlearn.data import Relabelled, load, view
from everlearn.methods import GrowHead, Replay
from everlearn.models import Classes, Net, save_weights


def write_digits(folder: Path) -> None:
    digits = load_digits()
    names = ("zero", "one", "two", "three", "four", "five")
    for place, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label < len(names) and place < 600:
            path = folder / ("old" if label < 4 else "new") / names[label] / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).save(path)


def main(folder: Path) -> None:
    if not (folder / "old").is_dir():
        write_digits(folder)
    old, new = load(folder / "old", channels=1), load(folder / "new", channels=1)
    classes = Classes(old.names)  # outputs keep their meaning: new classes come behind
    added = classes.add(new.names)

    torch.manual_seed(0)
    learner = Learner(
        Net(outputs=len(old.names), channels=1, size=8),
        Chain(GrowHead(), Replay(Balanced("200kB"))),
        optimizer=partial(torch.optim.Adam, lr=0.003),
        epochs=10,
        batch_size=16,
        view=view("unit", augment=["crop:1"]),
    )
    rows = Relabelled(new.rows, classes.table(new.names))
    learner.learn(Experience(0, old.rows, old.rows, tuple(range(len(old.names)))))
    learner.learn(Experience(1, rows, rows, tuple(added.tolist())))
    for name, test in (("old", old.rows), ("new", rows)):
        print(name, learner.evaluate(test, names=classes.names).by_class)
    save_weights(learner.model, folder / "model.safetensors", classes=classes.names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
