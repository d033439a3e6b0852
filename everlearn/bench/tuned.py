"""Ants and bees: a base that knows ImageNet, tuned by a few photographs, or by very few."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from everlearn.batch import Rows
from everlearn.data.hashing import row_ids
from everlearn.data.rows import Columns, Subset
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.randomness import mix, unmoved
from everlearn.schedule import cosine
from everlearn.streams.experience import Experience
from everlearn.transfer.bases import Base
from everlearn.transfer.opening import open_base
from everlearn.transfer.rates import grouped

CLASSES = ("ants", "bees")
IMAGENET = Path("weights") / "mobilenet_v2_imagenet_fp16.pth"
"""MobileNetV2 on ImageNet, whose input is in [-1, 1]."""


class Photographs(NamedTuple):
    """Photographs of two classes, uint8 (n, 3, 256, 256)."""

    train: Rows
    test: Rows
    digest: str


@dataclass(frozen=True)
class Tuned:
    """MobileNetV2 on Hymenoptera: 244 photographs of ants and bees to learn from, 153 to be asked about.

    The scores are accuracies in %, after all steps and after parts of them. With `shots`, so many photographs of each
    class are drawn at random; about as many rows are seen as without, in whole passes and smaller batches. Photographs
    are mirrored and moved in training.
    """

    source: str
    weights: bool = True
    """Those of ImageNet; else all are drawn at random."""
    shots: int = 0
    lr: float = 0.001
    """The first; it falls to 0 along a cosine."""
    head: float = 10.0
    """How many times larger it is in the head."""
    side: int = 128
    """Of the input, in pixels."""
    steps: int = 60
    batch_size: int = 32
    device: str = "cpu"

    @property
    def chance(self) -> dict[str, float]:
        """One of two."""
        return dict.fromkeys(("accuracy", *_PARTS), 50.0)

    def data(self, folder: Path) -> str:
        """The digest of the photographs and of the weights."""
        weights = hashlib.sha256(_there(folder / IMAGENET).read_bytes()).hexdigest() if self.weights else ""
        return f"{hymenoptera(folder).digest} {weights[:16]}".strip()

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores on Hymenoptera."""
        base = mobilenet(folder, seed, weights=self.weights, side=self.side)
        return self.scored(method, seed, hymenoptera(folder), base)

    def scored(self, method: str, seed: int, photographs: Photographs, base: Base) -> dict[str, float]:
        """The scores of any base on any photographs."""
        rows = few(photographs.train, self.shots, mix(seed, 1)) if self.shots else photographs.train
        base.replace_head(CLASSES, seed=mix(seed, 2))
        optimizer = partial(SGD, lr=self.lr, momentum=0.9)
        learner = Learner(
            base.module,
            build(method, seed=mix(seed, 4)),
            optimizer=grouped(optimizer, base.module, head=self.head),
            scheduler=falling,
            epochs=-(-self.steps * self.batch_size // len(rows)),
            batch_size=min(self.batch_size, len(rows)),
            seed=seed,
            view=base.view(augment=("flip", "crop:8")),
            drop_last=True,
            device=self.device,
        )
        scores = {}
        with unmoved(torch.device(self.device)):
            torch.manual_seed(mix(seed, 5))  # what dropout draws from
            for step in learner.steps(Experience(0, rows, photographs.test, (0, 1))):
                for name, part in _PARTS.items():
                    if step.place == round(part * step.of):
                        scores[name] = 100 * learner.evaluate(photographs.test, batch_size=_ASKED).value
        return {"accuracy": 100 * learner.evaluate(photographs.test, batch_size=_ASKED).value, **scores}


def mobilenet(folder: Path, seed: int, *, weights: bool = True, side: int = 0) -> Base:
    """MobileNetV2, with the weights of ImageNet or with random ones; `side` is that of its input, if not the usual."""
    half = (0.5, 0.5, 0.5)
    file = _there(folder / IMAGENET) if weights else None
    size = {"resize": (side, side), "crop": None} if side else {"resize": 256, "crop": (224, 224)}
    told = {**size, "mean": half, "std": half}
    base = open_base("torchvision:mobilenet_v2", file, preprocessing=told, seed=mix(seed, 3))
    base.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which on a CPU is faster by a half
    return base


def falling(optimizer: Optimizer, steps: int) -> LambdaLR:
    """To 0, along a cosine."""
    return LambdaLR(optimizer, lambda step: cosine(step / steps))


def few(rows: Rows, shots: int, seed: int) -> Rows:
    """So many rows of each class, drawn at random."""
    labels = torch.as_tensor(rows.column("y"))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:shots] for label in range(int(labels.max()) + 1)]
    return Subset(rows, torch.cat(chosen))


@cache
def hymenoptera(folder: Path) -> Photographs:
    """The photographs, their shorter side 256 pixels, cut square; a ValueError that says what is missing."""
    archive = _there(folder / "hymenoptera" / "hymenoptera_256.zip")
    with zipfile.ZipFile(archive) as file:
        train, test = (_split(file, split) for split in ("train", "val"))
    return Photographs(train, test, hashlib.sha256(archive.read_bytes()).hexdigest()[:16])


def _split(file: zipfile.ZipFile, split: str) -> Rows:
    names = sorted(name for name in file.namelist() if f"{split}/" in name and name.lower().endswith(".jpg"))
    labels = torch.tensor([CLASSES.index(name.split("/")[-2]) for name in names])
    x = torch.stack([_square(file.read(name)) for name in names])
    return Columns(x=x, y=labels, id=row_ids(f"hymenoptera/{split}", len(names)))


def _square(content: bytes, side: int = 256) -> Tensor:
    from PIL import Image, ImageOps  # noqa: PLC0415 - only images need it

    with Image.open(BytesIO(content)) as image:
        fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)


def _there(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"there is no {file.name} in {file.parent}; it is a part of the data that this row needs")
    return file


_PARTS = {"at 25 %": 0.25, "at 50 %": 0.5}
"""When accuracies are taken on the way."""
_ASKED = 64
"""Rows at a time."""
