"""Weights for another input: more positions, other patches, other channels, without a change of what was learned."""

from collections.abc import Collection, Mapping
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.models.report import Adaptation

ADAPTATIONS = ("positions", "channels")
"""What `load_weights` can adapt."""

_POSITIONS = ("pos_embed", "position_embedding", "positional_embedding", "pos_emb", "relative_position_bias_table")
_PATCHES = ("patch_embed", "conv_proj")
_LENGTH = ("vision", "visual", "image", "patch")
"""A table (positions, width) is of a text unless its name says otherwise: a text has a length, and no grid."""

_BEFORE = {0, 1, 2, 5}
"""How many tokens models have before their grid: of class, distillation, four registers."""


def adapt_all(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], kinds: Collection[str]
) -> tuple[dict[str, Tensor], list[Adaptation]]:
    """`found`, with what could be made to fit in the place of what did not fit, and what that was."""
    first = next((name for name, value in own.items() if value.dim() == _OF_IMAGES and not has_positions(name)), None)
    fitting, adaptations = dict(found), []
    for name, value in found.items() if kinds else ():
        if value.shape != own[name].shape and (made := adapted(name, value, own[name], kinds, first=name == first)):
            fitting[name] = made[0]
            adaptations.append(Adaptation(name, tuple(value.shape), tuple(own[name].shape), made[1]))
    return fitting, adaptations


_OF_IMAGES = 4
"""How many dimensions the kernels of a layer have that sees images."""


def adapted(name: str, saved: Tensor, own: Tensor, kinds: Collection[str], *, first: bool) -> tuple[Tensor, str] | None:
    """`saved` in the shape of `own`, and what was done, in words; None where none of `kinds` is a reason to.

    * "positions": learned positions of a grid of patches, (1, n, d), (1, d, h, w) or a table of relative ones, are
      interpolated (bicubic, antialiased), those before the grid, as of a class token, taken as they are, or
      left as the model has them; a table of a text loses its last rows. Kernels of patches of another size become
      those that answer to a resized patch as the old ones to the patch, as well as least squares can
      (FlexiViT, arXiv:2212.08013).
    * "channels": the layer of the input (`first`) gets kernels that answer to a grey image as before: of fewer
      channels, by adding kernels up; of more, by repeating them, each divided by the number of its copies.
    """
    if not saved.is_floating_point():
        return None
    value, told = saved.float(), []
    if "channels" in kinds and first and value.dim() == own.dim() == 4 and value.shape[1] != own.shape[1]:
        told.append(f"input channels from {value.shape[1]} to {own.shape[1]}")
        value = _channels(value, own.shape[1])
    if "positions" in kinds and value.shape != own.shape:
        if any(part in name for part in _PATCHES) and value.dim() == own.dim() == 4:
            told.append(f"patches from {_by(value.shape[2:])} to {_by(own.shape[2:])}")
            value = _patches(value, own.shape[2], own.shape[3])
        elif has_positions(name):
            value, how = _positions(name, value, own.detach().float().cpu())
            told.append(how)
    return (value.to(saved.dtype), ", ".join(told)) if told and value.shape == own.shape else None


def has_positions(name: str) -> bool:
    """Whether a tensor of this name holds learned positions, which a model cannot do without."""
    return any(part in name for part in _POSITIONS)


def _by(sides: torch.Size) -> str:
    return "x".join(map(str, sides))


def _channels(kernels: Tensor, channels: int) -> Tensor:
    """The kernels for images of so many `channels`, of which the sum over channels stays what it is."""
    before = kernels.shape[1]
    made = kernels.new_zeros(kernels.shape[0], channels, *kernels.shape[2:])
    if channels < before:
        return made.index_add_(1, torch.arange(before) % channels, kernels)
    source = torch.arange(channels) % before
    copies = source.bincount(minlength=before)
    return kernels[:, source] / copies[source].view(1, -1, 1, 1)


def _patches(kernels: Tensor, height: int, width: int) -> Tensor:
    """Kernels for patches of another size: with x' = B x the resized patch, w' = pinv(B') w, so w'x' = w x."""
    old = kernels.shape[2] * kernels.shape[3]
    basis = torch.eye(old).view(old, 1, *kernels.shape[2:])
    resize = _interpolated(basis, height, width).view(old, -1)  # the transpose of B
    flat = kernels.reshape(-1, old) @ torch.linalg.pinv(resize).mT
    made: Tensor = flat.view(*kernels.shape[:2], height, width)
    return made


def _positions(name: str, value: Tensor, own: Tensor) -> tuple[Tensor, str]:
    """The positions for another grid or length; as they are where that has no meaning."""
    if value.dim() == own.dim() == 4:  # (1, d, h, w), or (1, h, w, d)
        last = value.shape[-1] == own.shape[-1] and value.shape[1] != own.shape[1]
        grid = value.movedim(-1, 1) if last else value
        height, width = own.shape[1:3] if last else own.shape[2:]
        told = f"positions from {_by(grid.shape[2:])} to {height}x{width}"
        grid = _interpolated(grid, height, width)
        return (grid.movedim(1, -1) if last else grid), told
    if value.dim() != own.dim() or value.shape[-1] != own.shape[-1] or value.dim() not in {2, 3}:
        return value, ""
    text = value.dim() == 2 and not any(part in name for part in (*_LENGTH, "relative_position_bias_table"))
    if text:
        return value[: len(own)], f"the first {len(own)} of {len(value)} positions"
    before, old = _grid(value.shape[-2])
    after, new = _grid(own.shape[-2])
    known = {0} if "relative_position" in name else _BEFORE  # what a table of relative ones adds stands behind
    if not {before, after} <= known or (before != after and before and after):
        return value, ""  # no square: positions in time, or in a grid of unknown sides
    grid = value[..., before:, :].reshape(1, old, old, -1).movedim(-1, 1)
    grid = _interpolated(grid, new, new).movedim(1, -1).reshape(*value.shape[:-2], new * new, -1)
    kept = min(before, after)
    lead = torch.cat([value[..., :kept, :], own[..., kept:after, :]], -2)
    told = f"positions from {before}+{old}x{old} to {after}+{new}x{new}" if before or after else ""
    return torch.cat([lead, grid], -2), told or f"positions from {old}x{old} to {new}x{new}"


def _grid(count: int) -> tuple[int, int]:
    """How many of `count` positions stand before a square grid, at least, and the side of the grid."""
    before = next(few for few in range(count) if isqrt(count - few) ** 2 == count - few)
    return before, isqrt(count - before)


def _interpolated(grid: Tensor, height: int, width: int) -> Tensor:
    if grid.shape[-2:] == (height, width):
        return grid
    return F.interpolate(grid, (height, width), mode="bicubic", antialias=True, align_corners=False)
