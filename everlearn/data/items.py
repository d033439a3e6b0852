"""Rows made one by one: any map-style data set, collated into batches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import Batch, Column, take

if TYPE_CHECKING:
    from PIL.Image import Image

Size = int | tuple[int, int]
"""The size of images: (height, width) in pixels, or one number for both."""


@runtime_checkable
class MapStyle(Protocol):
    """What PyTorch calls a map-style data set: a length, and an item for each position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Any: ...


class Items:
    """The rows of a map-style data set whose items are dicts, or tuples that `names` names.

    Tensors, arrays and numbers of one shape become one tensor; images of PIL become uint8 tensors (channels,
    height, width); texts, and whatever differs in size from row to row, become lists. Items are made anew
    each time they are taken, so a data set that augments at random does so here too.

    >>> rows = Items([(torch.zeros(2), 7), (torch.ones(2), 8)])
    >>> rows.take(torch.tensor([1]))
    {'x': tensor([[1., 1.]]), 'y': tensor([8])}
    """

    resident = False

    def __init__(self, dataset: MapStyle, names: Sequence[str] = ("x", "y")) -> None:
        self.dataset = dataset
        self.names = tuple(names)
        self._numbers: dict[str, Column] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, index: Tensor) -> Batch:
        """The items at `index`, collated."""
        positions = within(index, len(self)).tolist()
        if not positions:  # no rows, but the columns that there would be
            return take(self.take(torch.tensor([0])), slice(0, 0)) if len(self) else {}
        items = [self._item(position) for position in positions]
        for position, item in zip(positions, items, strict=True):
            if item.keys() != items[0].keys():
                raise ValueError(
                    f"all items must have the same columns, but item {positions[0]} has {sorted(items[0])} "
                    f"and item {position} has {sorted(item)}"
                )
        return {name: stack([item[name] for item in items]) for name in items[0]}

    def column(self, name: str) -> Column:
        """All values of one column. Makes every item once; columns of plain numbers are remembered."""
        if name in self._numbers:
            return self._numbers[name]
        values: dict[str, list[Any]] = {name: []}
        for position in range(len(self)):
            item = self._item(position)
            if name not in item:
                raise KeyError(f"item {position} has no column {name!r}; it has {sorted(item)}")
            for key, value in item.items():
                if key == name or _is_number(value):
                    values.setdefault(key, []).append(value)
        whole = {key: column for key, column in values.items() if len(column) == len(self)}
        self._numbers |= {key: stack(column) for key, column in whole.items() if all(map(_is_number, column))}
        return self._numbers[name] if name in self._numbers else stack(values[name])

    def _item(self, position: int) -> dict[str, Any]:
        item = self.dataset[position]
        if isinstance(item, Mapping):
            return dict(item)
        if not isinstance(item, tuple | list):
            raise TypeError(
                f"items must be dicts or tuples, but item {position} is a {type(item).__name__}; "
                "wrap the data set so that it returns dicts of columns"
            )
        if len(item) != len(self.names):
            raise ValueError(
                f"item {position} is a tuple of {len(item)}, but names={self.names!r}; give one name for each"
            )
        return dict(zip(self.names, item, strict=True))


def stack(values: Sequence[Any]) -> Column:
    """The values of one column as a tensor where they are numbers or of one shape, else as a list.

    >>> stack([1, 2])
    tensor([1, 2])
    >>> stack([torch.zeros(1), torch.zeros(2)])
    [tensor([0.]), tensor([0., 0.])]
    >>> stack(["a", "b"])
    ['a', 'b']
    """
    if values and all(isinstance(value, bool | int | float) for value in values):
        return torch.tensor(values)
    parts = [_tensor(value) for value in values]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if tensors and len(tensors) == len(parts) and len({(part.shape, part.dtype) for part in tensors}) == 1:
        return torch.stack(tensors)
    return parts


def pixels(image: "Image", channels: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
    """An image of PIL as uint8 (channels, height, width); 1 channel is grey, 3 are red, green and blue.

    Without `channels`, grey images have one and all others three. Transparency is dropped. `size` is (height,
    width), to which the image is resized with antialiasing. Raises a ValueError for more than 8 bits a
    channel, which a conversion would clip.
    """
    if image.mode in {"F", "I"} or image.mode.startswith("I;"):
        raise ValueError(f"the image has pixels of mode {image.mode!r}; convert it to 8 bits a channel first")
    if channels is None:
        channels = 1 if image.mode in {"1", "L"} else 3
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")  # before resizing, which would blend a palette's indices
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), resample=2)  # bilinear
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1).contiguous()


def two_sides(size: Size | None) -> tuple[int, int] | None:
    """A size as (height, width), of which one number gives both."""
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise ValueError(f"a size must be one positive number or (height, width), not {size!r}")
    return sides


def within(index: Tensor, length: int) -> Tensor:
    """The index itself; raises an IndexError unless all its positions are in [0, length)."""
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= length):
        wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
        raise IndexError(f"there are {length} rows, and position {wrong} is none of them")
    return index


def _tensor(value: Any) -> Any:
    if isinstance(value, Tensor | str):
        return value
    if isinstance(value, np.ndarray | np.number | np.bool_):
        return torch.tensor(value)
    from PIL import Image  # noqa: PLC0415 - only data sets of images pay for it

    return pixels(value) if isinstance(value, Image.Image) else value


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    return isinstance(value, bool | int | float | np.number | np.bool_)
