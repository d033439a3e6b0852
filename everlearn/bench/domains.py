"""Pairs of domains with the same ten digits: MNIST, USPS, and MNIST-M, which is made of MNIST and photographs."""

import hashlib
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import Rows, tensor
from everlearn.bench.mnist import Digits, mnist
from everlearn.data.arrays import load_arrays
from everlearn.data.hashing import Draws, row_ids
from everlearn.data.rows import Columns

Pair = Literal["mnist-usps", "usps-mnist", "mnist-mnistm"]
"""Source and target."""

PHOTOGRAPHS = {"train": "cifar100_train10k_webp.npz", "test": "cifar100_test_webp.npz"}
SIDE = 28
"""Of the images, in pixels."""


class Domains(NamedTuple):
    """Where labels are, and where they are asked for: images of one shape."""

    source: Digits
    target: Digits

    @property
    def digest(self) -> str:
        """What tells them from other data."""
        return hashlib.sha256(f"{self.source.digest} {self.target.digest}".encode()).hexdigest()[:16]


@cache
def domains(pair: Pair, folder: Path) -> Domains:
    """The two domains; a ValueError that says what is missing in `folder`."""
    if pair == "mnist-usps":
        return Domains(mnist(folder), usps(folder))
    if pair == "usps-mnist":
        return Domains(usps(folder), mnist(folder))
    plain = mnist(folder)
    coloured = Digits(_in_colour(plain.train), _in_colour(plain.test), plain.digest)
    return Domains(coloured, mnist_m(folder))


@cache
def usps(folder: Path) -> Digits:
    """USPS from usps/usps.npz: 7,291 training and 2,007 test rows, resized from 16 to 28 pixels."""
    archive = folder / "usps" / "usps.npz"
    if not archive.is_file():
        raise ValueError(f"there is no USPS in {folder}: expected usps/usps.npz (x_train, y_train, x_test, y_test)")
    train, test = (_resized(load_arrays(archive, split=split).rows) for split in ("train", "test"))
    return Digits(train, test, _digest(archive))


@cache
def mnist_m(folder: Path) -> Digits:
    """MNIST-M: |crop of a photograph - digit|, in colour, the rows of MNIST in their order.

    Ganin et al. take the photographs of BSDS500; these are of CIFAR-100. Training digits meet training photographs and
    test digits test ones; which, and where they are cropped, is a function of the row's id.
    """
    plain = mnist(folder)
    made, digest = [], hashlib.sha256(plain.digest.encode())
    for rows, (split, name) in zip(plain[:2], PHOTOGRAPHS.items(), strict=True):
        archive = folder / "cifar100" / name
        if not archive.is_file():
            raise ValueError(f"there are no photographs for MNIST-M in {folder}: expected cifar100/{name}")
        made.append(blended(rows, photographs(archive), f"mnist-m/{split}"))
        digest.update(_digest(archive).encode())
    return Digits(made[0], made[1], digest.hexdigest()[:16])


def blended(rows: Rows, photographs: Tensor, name: str) -> Rows:
    """The digits as |crop - digit| on photographs, uint8 (n, 3, height, width) of at least the size of a digit."""
    digits, labels = (tensor({key: rows.column(key)}, key) for key in ("x", "y"))
    ids, side = row_ids(name, len(digits)), digits.shape[-1]
    draws, places = Draws.of(0, ids), photographs.shape[-1] - side + 1
    windows = photographs.unfold(2, side, 1).unfold(3, side, 1)  # (n, 3, places, places, side, side), a view
    chosen, down, right = (
        draws.below(bound, number) for number, bound in enumerate((len(photographs), places, places))
    )
    crops = windows[chosen, :, down, right].short()
    return Columns(x=(crops - digits.short()).abs().to(torch.uint8), y=labels, id=ids)


def photographs(archive: Path) -> Tensor:
    """The images of an archive of WebP files, end to end in `data`: uint8 (n, 3, height, width)."""
    from PIL import Image  # noqa: PLC0415 - only images need it

    with np.load(archive, allow_pickle=False) as found:
        data, offsets = found["data"], found["offsets"].tolist()
    images = []
    for start, end in pairwise(offsets):
        with Image.open(BytesIO(data[start:end].tobytes())) as image:
            images.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _in_colour(rows: Rows) -> Rows:
    x, y, ids = (tensor({key: rows.column(key)}, key) for key in ("x", "y", "id"))
    return Columns(x=x.expand(-1, 3, -1, -1), y=y, id=ids)


def _resized(rows: Rows) -> Rows:
    x, y, ids = (tensor({key: rows.column(key)}, key) for key in ("x", "y", "id"))
    larger = F.interpolate(x.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return Columns(x=larger.round().to(torch.uint8), y=y, id=ids)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
