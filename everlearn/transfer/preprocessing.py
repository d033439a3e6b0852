"""What a model's own config says about its input, as plain data, and the view that does it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import Batch
from everlearn.border import one_of
from everlearn.data.transforms import Normalize, View, view

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class ImagePreprocessing:
    """How images become the input of a model: resized, cut out in the middle, normalised.

    `resize` is the length of the shorter side, or (height, width); `crop` the (height, width) that is cut out,
    after black borders where the image is smaller. Both are as in torchvision and PIL, with antialiasing.
    `mean` and `std` are of pixels in [0, 1], so ((0.5,) * 3, (0.5,) * 3) gives [-1, 1]. None leaves a step out.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for name in ("resize", "crop", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):  # as JSON has it
                object.__setattr__(self, name, tuple(value))
        if not _count(self.channels):
            raise ValueError(f"channels must be a whole number of at least 1, but is {self.channels!r}")
        one_of("interpolation", self.interpolation, INTERPOLATIONS)
        one_of("order", self.order, ("rgb", "bgr"))
        for name, sides in (("resize", self.resize), ("crop", self.crop)):
            pair = (sides,) * 2 if name == "resize" and _count(sides) else sides
            if pair is not None and not (isinstance(pair, tuple) and len(pair) == 2 and all(map(_count, pair))):
                what = "one length or (height, width)" if name == "resize" else "(height, width)"
                raise ValueError(f"{name} must be {what}, in pixels, but is {sides!r}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together, but they are {self.mean} and {self.std}")
        if self.mean is not None and self.std is not None:
            Normalize(self.mean, self.std)
            if len(self.mean) not in {1, self.channels}:
                raise ValueError(f"there are {len(self.mean)} means for {self.channels} channels")

    @property
    def size(self) -> tuple[int, int] | None:
        """The (height, width) that the model sees, where it does not depend on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @property
    def load_size(self) -> tuple[int, int] | None:
        """The (height, width) to read files in, where all must have one: what `resize` makes of a square."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize or self.crop

    def view(self, augment: Iterable[str] = (), column: str = "x") -> "ImageView":
        """The view that does it; augmentations (see `everlearn.data.view`) come after the cut."""
        normalize = None if self.mean is None or self.std is None else Normalize(self.mean, self.std)
        return ImageView(normalize, view(augment=augment).augment, column, self)

    def fitted(self, images: Tensor) -> Tensor:
        """The images resized and cut, in the dtype they have."""
        if images.ndim != 4:
            raise ValueError(
                f"images must have the shape (n, channels, height, width), but these have {tuple(images.shape)}"
            )
        if images.shape[1] != self.channels:
            if images.shape[1] != 1:
                raise ValueError(
                    f"the model takes images of {self.channels} channels, but these have {images.shape[1]}; make its "
                    "input layer another one (adapt channels on loading), or convert the images"
                )
            images = images.expand(-1, self.channels, -1, -1)  # a grey image is one whose channels are alike
        if self.order == "bgr":
            images = images.flip(1)
        if self.resize is not None:
            images = _resized(images, _target(self.resize, images.shape[-2], images.shape[-1]), self.interpolation)
        return images if self.crop is None else _cut(images, *self.crop)


@dataclass(frozen=True)
class ImageView(View):
    """What a model sees of images, which may differ in size (a list): those of `ImagePreprocessing`, augmented."""

    geometry: ImagePreprocessing = field(default_factory=ImagePreprocessing)

    def __call__(self, batch: Batch, key: int | None = None) -> Batch:
        """A batch with the view of the column in its place."""
        if self.column not in batch:
            return super().__call__(batch, key)  # which says what is missing
        column = batch[self.column]
        if isinstance(column, Tensor):
            images = self.geometry.fitted(column)
        else:
            each = [self.geometry.fitted(image[None]) for image in column]
            if len({image.shape for image in each}) > 1:
                raise ValueError(
                    f"images of different sizes need a preprocessing with crop, or resize=(height, width), to be of "
                    f"one size; but it has resize={self.geometry.resize} and no crop"
                )
            images = torch.cat(each)
        return super().__call__({**batch, self.column: images}, key)


@dataclass(frozen=True)
class TextPreprocessing:
    """How texts become the input of a model: a tokenizer in the JSON of the library `tokenizers`, and a length.

    Texts are cut after `max_length` tokens, and the shorter ones of a batch are padded to the longest, behind a mask.
    """

    tokenizer: str
    max_length: int
    pad_id: int = 0

    load_size: ClassVar[None] = None
    """Texts have none."""

    def __post_init__(self) -> None:
        if not _count(self.max_length):
            raise ValueError(f"max_length must be a whole number of at least 1 token, but is {self.max_length!r}")

    def view(self, augment: Iterable[str] = (), column: str = "text") -> "TextView":
        """The view that puts "input_ids" and "attention_mask" in the place of the column of texts."""
        if names := list(augment):
            raise ValueError(f"texts have no augmentations, but {names} were asked for")
        return TextView(None, (), column, self)


@dataclass(frozen=True)
class TextView(View):
    """What a model sees of texts: their tokens."""

    preprocessing: TextPreprocessing = field(default_factory=lambda: TextPreprocessing("", 1))

    def __call__(self, batch: Batch, key: int | None = None) -> Batch:  # noqa: ARG002 (nothing is drawn)
        """A batch with the tokens in place of the texts."""
        if not isinstance(texts := batch.get(self.column), list):
            raise ValueError(  # noqa: TRY004 (the column may be missing)
                f"the batch has no list of texts {self.column!r}; it has the columns {sorted(batch)}"
            )
        encode = _encoder(self.preprocessing.tokenizer, self.preprocessing.max_length, self.preprocessing.pad_id)
        ids, mask = encode(texts)
        rest = {name: column for name, column in batch.items() if name != self.column}
        return rest | {"input_ids": ids, "attention_mask": mask}


Preprocessing = ImagePreprocessing | TextPreprocessing

_KINDS: dict[str, type[ImagePreprocessing] | type[TextPreprocessing]] = {
    "image": ImagePreprocessing,
    "text": TextPreprocessing,
}


def to_plain(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing as JSON can hold it.

    >>> to_plain(ImagePreprocessing(crop=(8, 8)))["crop"]
    (8, 8)
    """
    kind = next(name for name, type_ in _KINDS.items() if isinstance(preprocessing, type_))
    return {"kind": kind, **asdict(preprocessing)}


def from_plain(plain: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that `to_plain` wrote, with whatever was read from JSON in between."""
    settings = dict(plain)
    kind = settings.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"a preprocessing is of the kind {' or '.join(_KINDS)}, but this one of {kind!r}")
    _known(_KINDS[kind], settings)
    if lacking := [each.name for each in fields(_KINDS[kind]) if each.default is MISSING and each.name not in settings]:
        raise ValueError(f"a preprocessing of the kind {kind!r} needs {', '.join(lacking)}, which this one has not")
    return _KINDS[kind](**settings)


def changed(preprocessing: Preprocessing | None, changes: Preprocessing | Mapping[str, Any] | None) -> Any:
    """The preprocessing with some of its fields changed, or another one in its place.

    >>> changed(ImagePreprocessing(8), {"resize": 9}).resize
    9
    """
    if changes is None:
        return preprocessing
    if not isinstance(changes, Mapping):
        return changes
    if preprocessing is None:
        preprocessing = ImagePreprocessing()
    _known(type(preprocessing), changes)
    return replace(preprocessing, **changes)


def _known(kind: type[ImagePreprocessing] | type[TextPreprocessing], settings: Mapping[str, Any]) -> None:
    known = [each.name for each in fields(kind)]
    if strange := [name for name in settings if name not in known]:
        raise ValueError(f"a preprocessing has no {strange[0]!r}; it has {', '.join(known)}")


def _count(value: object) -> bool:
    """Whether it is a whole number above 0."""
    return type(value) is int and value > 0


def _target(resize: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """The size after resizing: the longer side follows the shorter one, rounded down as in torchvision."""
    if isinstance(resize, tuple):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def _resized(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """The images in another size; bytes stay whole numbers, and what overshoots is cut off, as PIL does it."""
    if images.shape[-2:] == size:
        return images
    smooth = interpolation != "nearest"
    full = 255.0 if images.dtype == torch.uint8 else 1.0
    made = F.interpolate(
        images.to(torch.float32),
        size,
        mode="nearest-exact" if interpolation == "nearest" else interpolation,
        align_corners=False if smooth else None,
        antialias=smooth,
    )
    if interpolation == "bicubic":
        made = made.clamp_(0, full)
    return made.round_().to(torch.uint8) if images.dtype == torch.uint8 else made


def _cut(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of the images, after black borders where they are smaller."""
    missing = (max(0, height - images.shape[-2]), max(0, width - images.shape[-1]))
    if any(missing):
        top, left = missing[0] // 2, missing[1] // 2
        images = F.pad(images, (left, missing[1] - left, top, missing[0] - top))
    top, left = (round((have - want) / 2) for have, want in zip(images.shape[-2:], (height, width), strict=True))
    return images[..., top : top + height, left : left + width]


@cache
def _encoder(tokenizer: str, max_length: int, pad_id: int) -> Callable[[list[str]], tuple[Tensor, Tensor]]:
    from everlearn.transfer.huggingface_zoo import encoder  # noqa: PLC0415 (a library of its own)

    return encoder(tokenizer, max_length, pad_id)
