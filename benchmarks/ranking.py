"""Whether the scores of `choose` rank bases as fine-tuning does: Kendall's tau for each score and data set.

    EVERLEARN_DATA=... python benchmarks/ranking.py [--device cuda] [--side 128] [--json FILE] [--tiny]

Five bases: MobileNetV2 of ImageNet at 224 pixels (or `--side`), ResNet-20 of CIFAR-10, and one small ResNet three
times: trained here on the superclasses of CIFAR-100, trained here on MNIST, and with random weights; all three at 32
pixels. Three data sets: ants and bees (244 rows), digits of USPS (500 rows of it), and ten classes of CIFAR-100
(500 rows), which the superclasses are learned without. Scores see the training rows only. Fine-tuning is that of
all weights, by SGD with momentum and a cosine, with the learning rate of a grid that is best on a fifth of the
training rows, held out; the accuracy is that on test rows, the mean over seeds.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from measure import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn import Experience, Learner
from everlearn.batch import Rows
from everlearn.bench.domains import PHOTOGRAPHS, photographs
from everlearn.bench.tuned import hymenoptera
from everlearn.data import Columns, Subset
from everlearn.data.arrays import load_arrays
from everlearn.models import ResNet18
from everlearn.transfer.bases import Base
from everlearn.transfer.choosing import choose
from everlearn.transfer.opening import open_base
from everlearn.transfer.preprocessing import ImagePreprocessing
from everlearn.transfer.sampling import stratified

SCORES = ("logme", "h-score", "n-leep", "knn", "ridge")
RATES = (0.003, 0.03)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    rows: int = 500
    steps: int = 50
    pretraining: int = 150
    side: int = 224
    """Of the input of MobileNetV2, in pixels."""
    pretrained: int = 10_000
    """Rows that the small nets are trained on, at most."""
    tiny: bool = False


TINY = Scale(rows=60, steps=3, pretraining=3, pretrained=200, tiny=True)


@dataclass(frozen=True)
class Data:
    """Training and test rows (uint8 images of three channels), and the number of classes."""

    train: Columns
    test: Columns
    classes: int


# -- data -----------------------------------------------------------------------------------------------------


def ants_and_bees(folder: Path) -> Data:
    """The square in the middle, 256 pixels wide."""
    found = hymenoptera(folder)
    return Data(*(everything(rows) for rows in (found.train, found.test)), classes=2)


def grey(folder: Path, name: str) -> Data:
    """MNIST or USPS, as images of three channels that are alike."""
    archive = folder / name / f"{name}.npz"
    parts = [everything(load_arrays(archive, split=split).rows) for split in ("train", "test")]
    return Data(*(Columns(x=_rgb(part.column("x")), y=part.column("y")) for part in parts), classes=10)


def _rgb(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, *x.shape[-2:]).expand(-1, 3, -1, -1)


def everything(rows: Rows) -> Columns:
    return Columns(rows.take(torch.arange(len(rows))))


def cifar100(folder: Path, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and the superclass of each label."""
    archive = folder / "cifar100" / PHOTOGRAPHS[part]
    with np.load(archive, allow_pickle=False) as file:
        y, coarse = (torch.from_numpy(file[name]).long() for name in ("y", "fine_to_coarse"))
    return photographs(archive), y, coarse


def cifar(folder: Path) -> tuple[Data, Columns]:
    """Each tenth class of CIFAR-100 as a data set, and the rows of all other classes under their superclasses."""
    parts = []
    for part in ("train", "test"):
        x, y, coarse = cifar100(folder, part)
        mine = y % 10 == 0
        parts.append(Columns(x=x[mine], y=y[mine] // 10))
        if part == "train":
            others = Columns(x=x[~mine], y=coarse[y[~mine]])
    return Data(*parts, classes=10), others


def few(data: Data, rows: int) -> Data:
    """At most so many training rows, and twice as many test rows."""
    return replace(data, train=fewer(data.train, rows), test=fewer(data.test, 2 * rows))


def fewer(rows: Columns, most: int) -> Columns:
    """At most so many rows, of each class its share."""
    return Columns(rows.take(stratified(torch.as_tensor(rows.column("y")), most)))


# -- bases ----------------------------------------------------------------------------------------------------


class ResNet20(nn.Module):
    """He et al. 2016, for CIFAR-10: three stages of three blocks, whose ways around have no weights."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(_Block(before, after), _Block(after, after), _Block(after, after))
            for before, after in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == after else (2, (after - before) // 2)
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        around = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(out + around)


def small(rows: Columns | None, classes: int, name: str, scale: Scale, device: str) -> Base:
    """A ResNet-18 of width 16 at 32 pixels, trained on `rows`, if there are some."""
    torch.manual_seed(0)
    base = open_base(ResNet18(width=16, outputs=classes), preprocessing=ImagePreprocessing(resize=(32, 32), **HALF))
    base.source, base.weights = name, name
    if rows is not None:
        train(base, rows, rate=0.1, steps=scale.pretraining, size=128, device=device)
    base.module.to(device)
    return base


def bases(folder: Path, superclasses: Columns, scale: Scale, device: str) -> list[Base]:
    weights = folder / "weights"
    digits, photos = (fewer(rows, scale.pretrained) for rows in (grey(folder, "mnist").train, superclasses))
    found = [
        small(photos, 20, "ResNet-18 slim, CIFAR-100", scale, device),
        small(digits, 10, "ResNet-18 slim, MNIST", scale, device),
        small(None, 10, "ResNet-18 slim, random", scale, device),
        open_base(
            ResNet20(),
            weights / "resnet20-12fca82f.th",
            preprocessing=ImagePreprocessing(resize=(32, 32), **IMAGENET),
        ),
    ]
    found[-1].source = "ResNet-20, CIFAR-10"
    if not scale.tiny:
        imagenet = open_base(
            "torchvision:mobilenet_v2",
            weights / "mobilenet_v2_imagenet_fp16.pth",
            preprocessing=ImagePreprocessing(resize=(scale.side, scale.side), **HALF),
        )
        imagenet.source = f"MobileNetV2, ImageNet, {scale.side} px"
        found.append(imagenet)
    for base in found:
        base.module.to(device)
    return found


# -- measuring ------------------------------------------------------------------------------------------------


def train(
    base: Base, rows: Columns | Subset, *, rate: float, steps: int, size: int, device: str, seed: int = 0
) -> Learner:
    """The base, trained for about so many steps, whole epochs."""
    learner = Learner(
        base.module,
        optimizer=partial(torch.optim.SGD, lr=rate, momentum=0.9, weight_decay=5e-4),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR,
        epochs=max(1, round(steps * size / len(rows))),
        batch_size=size,
        seed=seed,
        view=base.view(),
        device=device,
        drop_last=len(rows) >= size,
    )
    learner.learn(Experience(0, rows, rows, tuple(range(20))))
    return learner


def finetuned(base: Base, data: Data, scale: Scale, device: str, seed: int) -> tuple[float, float]:
    """The test accuracy with the rate that is best on held-out rows, and that rate."""
    held = torch.arange(len(data.train)) % 5 == 0
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    learned, asked = (Subset(data.train, order[part]) for part in (~held, held))
    found = []
    for rate in RATES:
        copy = replace(base, module=deepcopy(base.module))
        copy.replace_head([str(label) for label in range(data.classes)], seed=seed)
        learner = train(copy, learned, rate=rate, steps=scale.steps, size=50, device=device, seed=seed)
        found.append((learner.evaluate(asked).value, learner.evaluate(data.test).value, rate))
    _, accuracy, rate = max(found, key=lambda one: one[0])
    return accuracy, rate


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b: agreeing pairs minus disagreeing ones, out of the geometric mean of those without ties.

    >>> kendall([1, 2, 3], [10, 20, 30]), kendall([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    """
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (first, second))
    signs = [torch.sign(values[:, None] - values[None]).triu() for values in (a, b)]
    return float((signs[0] * signs[1]).sum() / (signs[0].abs().sum() * signs[1].abs().sum()).sqrt())


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "ranking.json")
    options.add_argument("--seeds", type=int, default=1, help="fine-tunings of each base, whose mean counts")
    options.add_argument("--tiny", action="store_true", help="a few rows and steps: to see that it works")
    options.add_argument("--side", type=int, default=Scale.side, help="of the input of MobileNetV2, in pixels")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder, scale, begin = (
        Path(os.environ["EVERLEARN_DATA"]),
        TINY if given.tiny else Scale(side=given.side),
        time.perf_counter(),
    )
    ten, superclasses = cifar(folder)
    sets = {"hymenoptera": ants_and_bees(folder), "usps": grey(folder, "usps"), "cifar-100, 10 classes": ten}
    sets = {name: few(data, scale.rows) for name, data in sets.items()}
    contenders = bases(folder, superclasses, scale, given.device)
    print(f"data and bases: {time.perf_counter() - begin:.0f} s", flush=True)

    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, data in sets.items():
        choice = choose(data.train, contenders, scores=SCORES, most=scale.rows)
        scored = {one.name: one.scores | {"rank": -one.rank, "ms": one.latency} for one in choice.candidates}
        for base in contenders:
            runs = [finetuned(base, data, scale, given.device, seed) for seed in range(given.seeds)]
            scored[base.source] |= {"accuracy": mean(run[0] for run in runs), "rate": runs[0][1]}
            line = ", ".join(f"{key} {value:.4g}" for key, value in scored[base.source].items())
            print(f"{time.perf_counter() - begin:5.0f} s  {name}, {base.source}: {line}", flush=True)
        found[name] = scored
    agreement = {
        score: {
            name: kendall([one[score] for one in scored.values()], [one["accuracy"] for one in scored.values()])
            for name, scored in found.items()
        }
        for score in (*SCORES, "rank")
    }
    table = Table("Kendall's tau", *found, "mean")
    for score, taus in agreement.items():
        table.add_row(score, *(f"{tau:.2f}" for tau in taus.values()), f"{mean(taus.values()):.2f}")
    Console(width=120).print(table)
    about = machine(given.threads) | {"device": given.device, "seconds": round(time.perf_counter() - begin)}
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps({"about": about, "found": found, "kendall": agreement}, indent=1) + "\n")
    print(f"{about['seconds']} s; written to {given.json}")


if __name__ == "__main__":
    main()
