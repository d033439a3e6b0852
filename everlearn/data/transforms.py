"""Views of a batch: what a model sees of rows, normalised, and augmented as a function of key and id."""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.batch import Batch, tensor
from everlearn.data.hashing import Draws


class Augmentation(Protocol):
    """A random change of images: (n, c, h, w), uint8 or floats in [0, 1], to new ones of the same shape."""

    def __call__(self, images: Tensor, draws: Draws, /) -> Tensor:
        """The changed images; `draws` gives each row its random numbers."""
        ...


@dataclass(frozen=True)
class Flip:
    """Mirrors an image left to right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"the probability of a flip must be in [0, 1], not {self.p}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The images, some of them mirrored."""
        count = len(images)
        chosen = torch.arange(count, device=images.device) + count * (draws.uniform() < self.p)
        # One gather from both versions of all: faster than a scatter, and no device has to be asked how many.
        return torch.cat([images, images.flip(-1)]).index_select(0, chosen)


@dataclass(frozen=True)
class Crop:
    """Pads an image with `padding` black pixels on each side, and cuts its old size out at a random place."""

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise ValueError(f"the padding of a crop must be at least 1 pixel, not {self.padding}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The images, moved by up to `padding` pixels in each direction."""
        count, channels, height, width = images.shape
        places = 2 * self.padding + 1
        padded = F.pad(images, (self.padding,) * 4).contiguous()
        row, plane, line, _ = padded.stride()
        # A view of the window that starts at each pixel: a crop is a row of it, all crops are one gather.
        span = (channels - 1) * plane + (height - 1) * line + width
        windows = padded.as_strided((padded.numel() - span + 1, channels, height, width), (1, plane, line, 1))
        start = row * torch.arange(count, device=images.device)
        place = draws.below(places**2)
        return windows.index_select(0, start + line * (place // places) + place % places)


@dataclass(frozen=True)
class Rotate:
    """Turns an image about its middle by up to `degrees` either way; what comes in from outside is black."""

    degrees: float = 15.0

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ValueError(f"a rotation must be by more than 0 and up to 180 degrees, not {self.degrees}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The images in float32, turned, with bilinear interpolation."""
        images = unit(images)
        angle = (2 * draws.uniform() - 1) * math.radians(self.degrees)
        sine, cosine, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
        aspect = images.shape[-2] / images.shape[-1]  # the grid measures both sides from -1 to 1
        rows = (cosine, -sine * aspect, zero, sine / aspect, cosine, zero)
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class Colour:
    """Changes brightness, contrast and saturation, in this order, each by up to 1 ± `strength` times."""

    strength: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"the strength of a change of colour must be in (0, 1], not {self.strength}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The images in float32, in other colours, still in [0, 1]."""
        brightness, contrast, saturation = (
            (1 + (2 * draws.uniform(number) - 1) * self.strength).view(-1, 1, 1, 1) for number in range(3)
        )
        images = (unit(images) * brightness).clamp_(0, 1)
        images = torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, contrast).clamp_(0, 1)
        return torch.lerp(_grey(images), images, saturation).clamp_(0, 1)


@dataclass(frozen=True)
class Normalize:
    """Takes off `mean` and divides by `std`, one a channel or one for all, where pixels are in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must have one entry a channel, and std be positive, not {self.mean} and {self.std}"
            )

    def __call__(self, column: Tensor) -> Tensor:
        """The column in float32, normalised; uint8 is divided by 255 on the way."""
        channels = column.shape[1] if column.ndim > 1 else 1
        if len(self.mean) not in {1, channels}:
            raise ValueError(f"there are {len(self.mean)} means for {channels} channels; give one for each, or one")
        full = 255.0 if column.dtype == torch.uint8 else 1.0
        shape = (-1,) + (1,) * (column.ndim - 2)
        scale = [1 / (full * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        made = column.to(torch.float32, copy=True)
        return made.mul_(made.new_tensor(scale).view(shape)).add_(made.new_tensor(shift).view(shape))


@dataclass(frozen=True)
class View:
    """What a model sees of a batch: its `column` in float32, augmented if there is a key, then normalised.

    uint8 is taken as pixels, and divided by 255; floats stay as they are, and pixels among them must be in
    [0, 1]. The random numbers of a row are a pure function of the key and of the row's "id" (its position, if
    the batch has no ids), so a row looks the same under one key whatever else is in the batch and on any
    device (a rotation or change of colour to the last bits of float32), and there is no state to save.
    Without a key, as in evaluation, there is no augmentation. The batch that is given stays as it is.

    >>> batch = {"x": torch.tensor([[[[0, 255]]]], dtype=torch.uint8)}
    >>> View(Normalize((0.5,), (0.5,)))(batch)["x"]
    tensor([[[[-1.,  1.]]]])
    """

    normalize: Normalize | None = None
    augment: tuple[Augmentation, ...] = ()
    column: str = "x"

    def __call__(self, batch: Batch, key: int | None = None) -> Batch:
        """A batch with the view of the column in its place."""
        column = tensor(batch, self.column)
        if column.dtype != torch.uint8 and not column.is_floating_point():
            raise TypeError(f"a view is made of uint8 or floating point numbers, but {self.column!r} is {column.dtype}")
        if self.augment and column.ndim != 4:
            raise ValueError(
                f"only images of shape (n, channels, height, width) can be augmented, but "
                f"{self.column!r} has the shape {tuple(column.shape)}; leave augment empty"
            )
        if self.augment and key is not None and len(column):
            ids = tensor(batch, "id") if "id" in batch else torch.arange(len(column))
            draws = Draws.of(key, ids.to(column.device))
            for number, augmentation in enumerate(self.augment):
                column = augmentation(column, draws.stream(number))
        return {**batch, self.column: unit(column) if self.normalize is None else self.normalize(column)}


NORMALIZE: dict[str, Normalize | None] = {
    "none": None,
    "unit": None,
    "imagenet": Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)),
    "cifar100": Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Normalize((0.1307,), (0.3081,)),
}
"""Means and standard deviations of known data, for pixels in [0, 1]; "unit" and "none" change nothing."""

AUGMENT: dict[str, Callable[..., Augmentation]] = {
    "flip": Flip,
    "crop": Crop,
    "rotate": Rotate,
    "colour": Colour,
}
"""Augmentations by name; a number after a colon is their one setting."""


def view(
    normalize: str | tuple[Sequence[float], Sequence[float]] = "unit",
    augment: Iterable[str] = (),
    column: str = "x",
) -> View:
    """A view by names: `normalize` is one of `NORMALIZE` or (mean, std), `augment` such as ["flip"].

    Augmentations apply in the order given. Raises a ValueError for a name that there is not.

    >>> view("mnist", ["crop:2", "flip"]).augment
    (Crop(padding=2), Flip(p=0.5))
    """
    if isinstance(augment, str):
        raise TypeError(f"augment must be a list of names, such as [{augment!r}], not one text")
    if isinstance(normalize, str):
        scale = NORMALIZE[_known("normalisation", normalize, NORMALIZE)]
    else:
        mean, std = normalize
        scale = Normalize(tuple(mean), tuple(std))
    return View(scale, tuple(map(_augmentation, augment)), column)


def unit(column: Tensor) -> Tensor:
    """The column in float32, pixels of uint8 in [0, 1]. A float32 column is not copied."""
    return column.to(torch.float32).div_(255) if column.dtype == torch.uint8 else column.to(torch.float32)


def _augmentation(text: str) -> Augmentation:
    name, colon, setting = text.partition(":")
    kind = AUGMENT[_known("augmentation", name, AUGMENT)]
    if not colon:
        return kind()
    try:
        return kind(int(setting) if kind is Crop else float(setting))
    except ValueError as error:
        raise ValueError(f"{text!r} is no augmentation: {error}") from error


def _known(what: str, name: str, names: Iterable[str]) -> str:
    names = sorted(names)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"there is no {what} {name!r}{hint}; known: {', '.join(names)}")
    return name


def _grey(images: Tensor) -> Tensor:
    """The luma of RGB images (ITU-R BT.601), the mean of the channels of others; (n, 1, h, w)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
