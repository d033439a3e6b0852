"""Rows from a folder of images, one folder a class."""

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from everlearn.batch import UNLABELED, Batch, Column, Rows
from everlearn.data.hashing import name_id
from everlearn.data.items import Size, pixels, two_sides, within
from everlearn.data.rows import Columns
from everlearn.data.source import Source, fingerprint, natural

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
MOST_PIXELS = 25_000_000
IN_MEMORY = 1 << 30

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images on disk, decoded when they are taken: x uint8 (n, channels, height, width), y and id int64.

    `size` is (height, width), to which images are resized; None where all have one size already.
    """

    paths: tuple[Path, ...]
    y: Tensor
    id: Tensor
    size: tuple[int, int] | None = None
    channels: int = 3

    resident = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Tensor) -> Batch:
        """The images at `index`, decoded by as many threads as there are cores."""
        index = within(index.cpu(), len(self))
        return {"x": self._decoded(index), "y": self.y[index], "id": self.id[index]}

    def column(self, name: str) -> Column:
        """All values of one column; only "x" opens the files."""
        if name == "x":
            return self._decoded(torch.arange(len(self)))
        if name not in {"y", "id"}:
            raise KeyError(f"there is no column {name!r}; there are ['id', 'x', 'y']")
        return self.y if name == "y" else self.id

    def _decoded(self, index: Tensor) -> Tensor:
        if not len(index):
            return self._decoded(torch.tensor([0]))[:0]
        images = _each(lambda position: decode(self.paths[position], self.size, self.channels), index.tolist())
        return torch.stack(images)


def load_images(
    root: Path, *, size: Size | None = None, channels: int = 3, in_memory: bool | None = None, labels: bool = True
) -> Source:
    """The images (PNG, JPEG, WebP, BMP, PPM, first frames of GIFs) in the folders of `root`, one a class.

    A folder's name is its class, and folders within it belong to it; other files are passed over. Images
    become uint8 RGB, or grey with `channels=1`, resized to `size`, one number or (height, width); without a
    size all must have the same. Rotation tags are not applied. Every file is decoded once now, so that a
    broken one is found before training: if fewer than 1 % are broken, or larger than 25 megapixels, they are
    quarantined, else that is a ValueError. The pixels stay in memory if `in_memory`, by default if they are
    less than 1 GiB. Without `labels` all images below `root` are taken, in whatever folders, as rows without a label.
    """
    if channels not in {1, 3}:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), not {channels}")
    names, files = _classes(root) if labels else ((), [_images(root)])
    paths = [path for found in files for path in found]
    y = torch.repeat_interleave(torch.tensor([len(found) for found in files]))
    if not labels:
        y.fill_(UNLABELED)
    ids = torch.tensor([name_id(path.relative_to(root).as_posix()) for path in paths])
    headers = dict(zip(paths, _each(_header, paths), strict=True))
    broken = {path: fault for path, (_, fault) in headers.items() if fault}
    _refuse_many(root, broken, len(paths))
    target = two_sides(size) or _one_size({path: shape for path, (shape, _) in headers.items() if path not in broken})
    if in_memory is None:
        in_memory = len(paths) * channels * target[0] * target[1] < IN_MEMORY
    x = torch.empty((len(paths) if in_memory else 0, channels, *target), dtype=torch.uint8)

    def verify(place: int) -> str:
        try:
            image = decode(paths[place], target, channels)
        except ValueError as error:
            return str(error)
        if in_memory:
            x[place] = image
        return ""

    whole = [place for place, path in enumerate(paths) if path not in broken]
    broken |= {paths[place]: fault for place, fault in zip(whole, _each(verify, whole), strict=True) if fault}
    _refuse_many(root, broken, len(paths))
    good = [place for place in whole if paths[place] not in broken]
    kept = tuple(paths[place] for place in good)
    y, ids = y[good], ids[good]
    rows: Rows = ImageFolder(kept, y, ids, target, channels)
    if in_memory:
        rows = Columns(x=x[good] if broken else x, y=y, id=ids)
    mark = fingerprint(rows, kept, names, target, channels)
    return Source(rows, names, quarantined=tuple(sorted(broken)), fingerprint=mark)


def decode(path: Path, size: tuple[int, int] | None, channels: int) -> Tensor:
    """One image as uint8 (channels, height, width). Raises a ValueError for a file that does not decode."""
    from PIL import Image  # noqa: PLC0415 - only images need it

    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_pixels(image.size)
            return pixels(image, channels, size)
    except _faults() as error:
        raise ValueError(f"{path} does not decode: {error}") from error


def _classes(root: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    """The names of the class folders in natural order, and the images of each."""
    folders = {entry.name: entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    loose = [entry.name for entry in root.iterdir() if _is_image(entry)]
    if loose or not folders:
        found = f"has images beside its folders, such as {min(loose)}" if loose else "has no folders"
        raise ValueError(f"{root} {found}; put the images of each class into a folder of its name")
    if set(map(str.lower, folders)) <= SPLITS:
        raise ValueError(
            f"{root} has the folders {sorted(folders)}, which are no classes; load {min(folders.values())}"
        )
    names = natural(folders)
    files = [sorted(path for path in folders[name].rglob("*") if _is_image(path)) for name in names]
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise ValueError(
            f"{root} has class folders without images: {empty}; remove them, or add images ({', '.join(SUFFIXES)})"
        )
    return names, files


def _images(root: Path) -> list[Path]:
    """All images in `root` and in its folders."""
    found = sorted(path for path in root.rglob("*") if _is_image(path))
    if not found:
        raise ValueError(f"{root} has no images ({', '.join(SUFFIXES)}), not even in its folders")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """The (height, width) that the header of a file states, and what is wrong with it, if anything."""
    from PIL import Image  # noqa: PLC0415 - only images need it

    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_pixels(image.size)
            return (image.height, image.width), ""
    except _faults() as error:
        return (0, 0), str(error)


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"the image has {size[0]} x {size[1]} pixels, and more than {MOST_PIXELS:,} are refused")


def _faults() -> tuple[type[Exception], ...]:
    """What Pillow raises for files that are broken."""
    from PIL import Image  # noqa: PLC0415 - only images need it

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    return (OSError, SyntaxError, ValueError, EOFError, struct.error, *bombs)


def _one_size(sizes: Mapping[Path, tuple[int, int]]) -> tuple[int, int]:
    """The size that all images have."""
    first, one = next(iter(sizes.items()))
    for path, size in sizes.items():
        if size != one:
            raise ValueError(
                f"all images must have one size, but {first} has {one} and {path} has {size} (height, "
                "width); resize them all by size=... (--size on the command line)"
            )
    return one


def _refuse_many(root: Path, broken: Mapping[Path, str], count: int) -> None:
    """Raises a ValueError unless fewer than 1 % of the files are broken."""
    if broken and 100 * len(broken) >= count:
        listed = "\n".join(f"  {path}: {fault}" for path, fault in list(broken.items())[:10])
        raise ValueError(
            f"{len(broken)} of the {count} images in {root} cannot be read, and fewer than 1 % may be left "
            f"out; repair or remove them:\n{listed}"
        )


def _each(work: Callable[[_In], _Out], things: Iterable[_In]) -> list[_Out]:
    """The results for all things, in order. Threads suffice: Pillow decodes without the interpreter."""
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, things))
