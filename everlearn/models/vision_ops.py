"""torchvision beside a torch without its compiled operators: the two that detectors need, in torch alone."""

from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library
from torch.nn import functional as F

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_LIBRARIES: list[Library] = []
"""What was registered; torch forgets it when these are gone."""


def torchvision() -> ModuleType:
    """The module torchvision, imported, and mended if its compiled operators are missing.

    That is so where torchvision was built for another torch than the one here, as the one of PyPI beside a torch
    for CPUs: it cannot even be imported then. Box suppression and RoIAlign are replaced by those of this file; what
    else is compiled (deformable convolution, position-sensitive RoIs, decoding of files) still says that it is
    missing. An installation that has its operators is left as it is.
    """
    try:
        import torchvision as vision  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("this needs torchvision, which is not installed: pip install 'everlearn[vision]'") from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _declare()
        import torchvision as vision  # noqa: PLC0415
    if not vision.extension._has_ops():  # noqa: SLF001 (torchvision has no public name for it)
        _mend(vision)
    module: ModuleType = vision
    return module


def mended() -> None:
    """Mends torchvision where it is installed: other libraries import it by themselves, and could not."""
    if find_spec("torchvision") is not None:
        torchvision()


def _declare() -> None:
    """Makes the operators known by name, without which torchvision cannot be imported."""
    if not _LIBRARIES:
        _LIBRARIES.append(Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _LIBRARIES[0].define(schema)  # type: ignore[no-untyped-call]


def _mend(vision: Any) -> None:
    """Puts our operators in the places of the missing ones, once."""
    from torchvision.models.detection import roi_heads  # noqa: PLC0415
    from torchvision.ops import boxes, poolers  # noqa: PLC0415

    if poolers.roi_align is roi_align:
        return
    _declare()
    kernels = Library("torchvision", "IMPL")  # type: ignore[no-untyped-call]
    for device in ("CPU", "CUDA"):
        kernels.impl("nms", nms, device)  # type: ignore[no-untyped-call]
    _LIBRARIES.append(kernels)
    boxes._assert_has_ops = _nothing  # noqa: SLF001
    vision.ops.roi_align = poolers.roi_align = roi_heads.roi_align = roi_align


def _nothing() -> None:
    """Asserts nothing."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The positions of boxes (n, 4) that no better one overlaps by more than the threshold, the best first.

    Greedy non-maximum suppression; of equal scores, the first is the better one.
    """
    order = scores.sort(stable=True, descending=True).indices
    rest = boxes[order]
    kept = []
    while len(order):
        kept.append(order[:1])
        low = torch.maximum(rest[0, :2], rest[1:, :2])
        high = torch.minimum(rest[0, 2:], rest[1:, 2:])
        shared = (high - low).clamp_(min=0).prod(1)
        areas = (rest[:, 2:] - rest[:, :2]).prod(1)
        apart = ~(shared / (areas[0] + areas[1:] - shared) > iou_threshold)  # two boxes without an area are apart
        order, rest = order[1:][apart], rest[1:][apart]
    return torch.cat(kept) if kept else order


def roi_align(  # noqa: PLR0917 (torchvision's signature)
    input: Tensor,  # noqa: A002 (torchvision's name)
    boxes: Tensor | list[Tensor],
    output_size: int | tuple[int, int] | list[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """The means of regions of feature maps, in bins, (boxes, channels, height, width): torchvision's `roi_align`.

    The points of all regions of one image that have as many points in a bin are read at once by `grid_sample`,
    which takes a fifth of the time of torchvision's way in Python, and has no need of a compiler.
    """
    height, width = (output_size,) * 2 if isinstance(output_size, int) else output_size
    if not isinstance(boxes, Tensor):
        images = [torch.full_like(each[:, :1], image) for image, each in enumerate(boxes)]
        boxes = torch.cat([torch.cat(images), torch.cat(boxes)], 1)
    features = input.float() if input.dtype in {torch.float16, torch.bfloat16} else input
    image = boxes[:, 0].long()
    corners = boxes[:, 1:].detach().to(features.dtype) * spatial_scale - (0.5 if aligned else 0.0)
    sides = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    bins = sides / sides.new_tensor([width, height])
    if sampling_ratio > 0:
        points = torch.full_like(image, sampling_ratio).view(-1, 1).expand(-1, 2)
    else:
        points = bins.ceil().long().clamp(min=0)
    kinds, kind = torch.cat([image[:, None], points], 1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    made = features.new_zeros(len(boxes), features.shape[1], height, width)
    for number, (of, across, down) in enumerate(kinds.tolist()):
        if across and down:  # a region without an area has no point, and the mean 0
            chosen = (kind == number).nonzero().flatten()
            x = _points(corners[chosen, 0], bins[chosen, 0], width, across)
            y = _points(corners[chosen, 1], bins[chosen, 1], height, down)
            made = made.index_copy(0, chosen, _means(features[of : of + 1], x, y, (height, width)))
    return made.to(input.dtype)


def _points(start: Tensor, step: Tensor, bins: int, count: int) -> Tensor:
    """Where regions are looked at along one side, (regions, bins x count): evenly within each bin."""
    within = (torch.arange(bins * count, device=start.device, dtype=start.dtype) + 0.5) / count
    return start[:, None] + within * step[:, None]


def _means(features: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """The means of what `features` (1, c, h, w) are at the points, in bins: (regions, c, *size)."""
    regions, (down, across) = len(x), features.shape[-2:]
    grid = torch.stack(
        [
            (2 * x / max(across - 1, 1) - 1)[:, None, :].expand(-1, y.shape[1], -1),
            (2 * y / max(down - 1, 1) - 1)[:, :, None].expand(-1, -1, x.shape[1]),
        ],
        -1,
    ).reshape(1, -1, x.shape[1], 2)
    read = F.grid_sample(features, grid, padding_mode="border", align_corners=True)
    read = read.view(-1, regions, y.shape[1], x.shape[1])
    # What is more than a pixel outside is 0, what is nearer is the border.
    seen = ((y >= -1) & (y <= down))[:, :, None] & ((x >= -1) & (x <= across))[:, None, :]
    read = read * seen
    read = read.view(-1, regions, size[0], y.shape[1] // size[0], size[1], x.shape[1] // size[1])
    return read.mean((3, 5)).movedim(0, 1)
