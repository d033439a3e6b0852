"""What a user has: a trained model, old data and new data, in files. Small enough to learn in a blink."""

import hashlib
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from everlearn.cli import main
from everlearn.data import load, view
from everlearn.learner import Learner
from everlearn.models import save_weights
from everlearn.streams import Experience

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, outputs=3, dropout=0.2):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.body(x))


class Normed(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU())


class Photo(nn.Module):
    def __init__(self, outputs=2, channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 4, stride=4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(32, outputs)

    def forward(self, x):
        return self.head(self.body(x))


class Price(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(x)


class Picky(nn.Module):
    def __init__(self, width):
        raise RuntimeError("no such width")


class NoModule:
    pass


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


class Headless(Net):
    def forward(self, x):
        return self.body(x)


class Buggy(Net):
    def forward(self, x):
        return self.haed(x)


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)
"""
COLOURS = {"cat": (220, 30, 30), "dog": (30, 220, 30), "ant": (30, 30, 220), "zebra": (200, 200, 200)}


class Shop(NamedTuple):
    """The folder of everything; its files by name."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def model(self, name: str = "Net") -> str:
        return f"{self.folder / 'net.py'}:{name}"


class Said(NamedTuple):
    """How the program ended, and what it printed."""

    code: int
    out: str
    err: str


def prepare(folder: Path) -> Shop:
    """Seven groups of points (three of them known to a deployed net), photos of four animals, and prices."""
    shop = Shop(folder)
    (shop / "net.py").write_text(NET)
    spec = spec_from_file_location("net", shop / "net.py")
    net = module_from_spec(spec)
    spec.loader.exec_module(net)
    random = np.random.default_rng(0)

    centres = 2 * random.normal(size=(7, 12))
    sets = {"old": (0, 1, 2), "first": (3, 4), "second": (5, 6), "more": (0, 2), "test": range(5), "test-all": range(7)}
    for name, classes in sets.items():
        y = np.repeat(np.array(classes), 20)
        x = (centres[y] + 0.5 * random.normal(size=(len(y), 12))).astype(np.float32)
        np.savez(shop / f"{name}.npz", x=x, y=y)
    torch.manual_seed(0)
    _deploy(net.Net(), shop / "old.npz", shop / "deployed.pth", named=False)

    for name, animals in {"photos": ("cat", "dog"), "new-photos": ("ant", "zebra"), "test-photos": COLOURS}.items():
        for animal in animals:
            photos(shop / name / animal, random, colour=COLOURS[animal])
    _deploy(net.Photo(), shop / "photos", shop / "photo.safetensors", named=True)

    for name, slope in {"prices": (1.0, 2.0, 0.0), "new-prices": (1.0, 2.0, 3.0)}.items():
        x = random.normal(size=(60, 3)).round(3)
        lines = [f"{a},{b},{c},{value:.6f}" for (a, b, c), value in zip(x, x @ slope, strict=True)]
        (shop / f"{name}.csv").write_text("\n".join(["area,rooms,age,price", *lines]))
    price = net.Price()
    with torch.no_grad():
        price.head.weight.copy_(torch.tensor([[1.0, 2.0, 0.0]]))
        price.head.bias.zero_()
    save_weights(price, shop / "price.pth")
    return shop


def photos(folder: Path, random: np.random.Generator, *, colour=(128, 128, 128), count=8, size=8, mode="RGB") -> None:
    """Noisy squares of one colour, as PNG files."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.clip(np.array(colour) + random.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


def _deploy(model: torch.nn.Module, data: Path, weights: Path, *, named: bool) -> None:
    source = load(data)
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    learner = Learner(model, optimizer=optimizer, epochs=15, view=view() if named else None)
    learner.learn(Experience(0, source.rows, source.rows, tuple(range(len(source.names)))))
    save_weights(model, weights, classes=source.names if named else None)


def contents(folder: Path) -> dict[str, str]:
    """All files below a folder, by their hashes; what another program may notice of a run."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words(settings: dict[str, object]) -> list[str]:
    """Settings as a user types them: a list is a flag given several times, True a flag alone, None nothing."""
    typed = []
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            flag = f"--{name.replace('_', '-')}"
            typed += [] if each is None else [flag] if each is True else [flag, str(each)]
    return typed


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield prepare(tmp_path_factory.mktemp("shop"))
    torch.set_num_threads(threads)


@pytest.fixture
def everlearn(monkeypatch, capsys):
    """The program, in this process."""
    monkeypatch.delenv("EVERLEARN_TRACEBACK", raising=False)

    def run(*typed: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["everlearn", *map(str, typed)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def settings(shop, tmp_path):
    """What most runs here are asked for: two new classes with experience replay."""
    return {
        "model": shop.model(),
        "weights": shop / "deployed.pth",
        "data": shop / "first.npz",
        "old": shop / "old.npz",
        "test": shop / "test.npz",
        "method": "er:memory=30,count=16",
        "epochs": 4,
        "batch_size": 8,
        "optimizer": "sgd:lr=0.02,momentum=0.9",
        "threads": 1,
        "out": tmp_path / "made" / "updated.pth",
    }


@pytest.fixture
def learn(everlearn, settings):
    """`everlearn learn` with these settings, some of them changed."""

    def run(**changes: object) -> Said:
        return everlearn("learn", *words(settings | changes))

    return run
