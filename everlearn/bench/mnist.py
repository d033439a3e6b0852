"""MNIST as it lies on disk: one archive (mnist.npz), or the four files of its authors, as such or gzipped."""

import gzip
import hashlib
import math
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import Rows, tensor
from everlearn.checkpoint import write
from everlearn.data.arrays import load_arrays
from everlearn.data.hashing import row_ids
from everlearn.data.rows import Columns

FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""The files of the authors, with the MD5 sums of their gzipped forms."""
FOLDERS = ("mnist", "MNIST/raw", "mnist/raw", ".")
"""Where they are looked for; the second is torchvision's."""
HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


class Digits(NamedTuple):
    """60,000 training and 10,000 test rows: x uint8 (1, 28, 28), y int64; and what tells them from other data."""

    train: Rows
    test: Rows
    digest: str


@cache
def mnist(folder: Path) -> Digits:
    """MNIST from `folder`: mnist/mnist.npz, or the four files in one of `FOLDERS`.

    Both forms give the same rows with the same ids and digest. Raises a ValueError where there is neither.
    """
    archive = folder / "mnist" / "mnist.npz"
    if archive.is_file():
        train, test = (load_arrays(archive, split=split).rows for split in ("train", "test"))
    else:
        found = [p for p in (folder / place for place in FOLDERS) if all(_path(p, name) for name in FILES)]
        if not found:
            raise ValueError(
                f"there is no MNIST in {folder}: expected mnist/mnist.npz (x_train, y_train, x_test, y_test) or "
                f"{', '.join(FILES)}, as such or as .gz, in mnist/; --download fetches them"
            )
        images, labels, asked, answers = (read_idx(path) for name in FILES if (path := _path(found[0], name)))
        train, test = _rows("train", images, labels), _rows("test", asked, answers)
    digest = hashlib.sha256()
    for rows in (train, test):
        for name in ("x", "y"):
            digest.update(tensor({name: rows.column(name)}, name).numpy().tobytes())
    return Digits(train, test, digest.hexdigest()[:16])


def read_idx(path: Path) -> Tensor:
    """The bytes of a file in the IDX format, shaped as it says; gzipped or not. A ValueError if it is damaged."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex()}")
    shape = np.frombuffer(content, ">u4", content[3], 4).astype(np.int64).tolist()
    start = 4 + 4 * content[3]
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path} is cut short: {len(content) - start} bytes of {math.prod(shape)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def download(folder: Path) -> None:
    """Fetches the four files into mnist/ of `folder`, where MNIST is not there yet; each is checked by its MD5 sum."""
    place = folder / "mnist"
    if (place / "mnist.npz").is_file():
        return
    for name, expected in FILES.items():
        if not any(_path(folder / each, name) for each in FOLDERS):
            write(place / f"{name}.gz", _fetched(f"{name}.gz", expected))


def _fetched(name: str, expected: str) -> bytes:
    problems = []
    for host in HOSTS:
        try:
            with urllib.request.urlopen(host + name, timeout=30) as answer:  # noqa: S310 (two fixed https hosts)
                content: bytes = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            problems.append(f"{host}: {error}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == expected:
            return content
        problems.append(f"{host}: {len(content)} bytes with another MD5 sum than {expected}")
    raise ValueError(
        f"{name} could not be fetched ({'; '.join(problems)}); put MNIST there by hand, without --download"
    )


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _rows(split: str, images: Tensor, labels: Tensor) -> Rows:
    ids = row_ids(f"mnist.npz/{split}", len(images))
    return Columns(x=images[:, None], y=labels.long(), id=ids)
