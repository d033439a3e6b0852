"""Weights from one architecture to another: by name, shape by shape, with a report of what came over and how."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from math import isqrt, prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from everlearn.models.heads import head_weights
from everlearn.models.loading import PREFIXES
from everlearn.models.views import bare
from everlearn.transfer.surgery.checked import SurgeryError

Policy = Literal["exact", "interpolate", "slice", "pad", "skip"]


class Row(NamedTuple):
    """What became of one tensor of the target."""

    target: str
    source: str
    """Where its values come from; "" if from nowhere."""
    policy: str
    """A `Policy`; "slice, pad" if it is smaller in one dimension and larger in another."""
    own: tuple[int, ...]
    theirs: tuple[int, ...]
    why: str = ""


@dataclass(frozen=True)
class Transplant:
    """What a target took of a source, tensor by tensor."""

    rows: tuple[Row, ...]
    unused: tuple[str, ...]
    """Tensors of the source that nothing was taken of."""
    coverage: float
    """The share of the target's parameters, in numbers, that was filled."""

    def __str__(self) -> str:
        lines = [("target", "source", "policy", "shape", "source's", "")]
        lines += [(r.target, r.source or "-", r.policy, _shape(r.own), _shape(r.theirs), r.why) for r in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        counts = {
            policy: sum(row.policy == policy for row in self.rows) for policy in {r.policy: None for r in self.rows}
        }
        said = ", ".join(f"{count} {policy}" for policy, count in counts.items())
        return "\n".join([*table, f"{self.coverage:.1%} of the parameters filled: {said}; {len(self.unused)} unused"])


@torch.no_grad()
def transplant(
    source: nn.Module | Mapping[str, Tensor],
    target: nn.Module,
    *,
    policies: Mapping[str, Policy] | None = None,
    adapt: Collection[Policy] = ("interpolate", "slice", "pad"),
    order: bool = False,
    head: str | None = None,
    prefixes: Sequence[str] = PREFIXES,
) -> Transplant:
    """Fills what it can of `target` with weights and buffers of `source`, another architecture; says what came.

    Tensors are matched by name, without `prefixes` before it; with `order`, those that are left, too, where runs of
    them have the same last names and shapes in the same order. A tensor of the same shape is taken as it is ("exact").
    Another shape is met by the first that fits of those in `adapt`:

    * "interpolate": the kernel of a convolution of other size with the same channels, its sum preserved; a position
      embedding, (1, tokens, width) or (tokens, width) with "pos" in its name, as a square grid behind its first tokens
      where it is one, else along the tokens;
    * "slice": the leading part of a larger one;
    * "pad": a smaller one becomes the leading part, and the rest stays as the target has it.

    The target's head (the linear layer `head`, or the last) decides what answers mean: it is taken only as it is, see
    `reclass`. `policies` says otherwise for names of the target, or patterns of such: {"head.*": "slice", "fc.*":
    "skip"}. A policy that cannot be met there is a SurgeryError, and so is a NaN; nothing is written then. Parameters
    stay the same objects. The function is another one than that of the source, but for "exact" throughout: see
    `distil`.
    """
    target = bare(target)
    own = {name: value for name, value in target.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    if lazy := [name for name, value in own.items() if is_lazy(value)]:
        raise SurgeryError(f"{lazy[0]!r} has no size yet; run one batch through the model first")
    theirs = bare(source).state_dict() if isinstance(source, nn.Module) else dict(source)
    linear = any(isinstance(layer, nn.Linear) for layer in target.modules())
    answering = set(head_weights(target, head)) if linear else set()
    pairs = _by_name(own, theirs, prefixes)
    if order:
        pairs |= _by_order(
            {name: value for name, value in own.items() if name not in pairs},
            {name: value for name, value in theirs.items() if name not in set(pairs.values())},
        )
    staged: dict[str, Tensor] = {}
    rows: list[Row] = []
    filled: dict[int, str] = {}
    for name, value in own.items():
        asked = next((policy for pattern, policy in (policies or {}).items() if fnmatchcase(name, pattern)), None)
        given = pairs.get(name)
        shapes = tuple(value.shape), tuple(theirs[given].shape) if given is not None else ()
        if id(value) in filled:
            rows.append(Row(name, "", "skip", *shapes, why=f"tied to {filled[id(value)]}"))
            continue
        if given is None or asked == "skip":
            rows.append(
                Row(name, given or "", "skip", *shapes, why="as asked" if asked == "skip" else "no counterpart")
            )
            continue
        allowed: Collection[Policy] = (asked,) if asked else () if name in answering else adapt
        policy, new = _fitted(name, value, theirs[given], allowed)
        if asked is not None and new is None:
            raise SurgeryError(
                f"{name!r} {_shape(shapes[0])} cannot be made from {given!r} {_shape(shapes[1])} by {asked!r}"
            )
        if new is None:
            why = "the head, with other classes: see reclass" if name in answering else "no policy fits"
            rows.append(Row(name, given, "skip", *shapes, why=why))
            continue
        if not _sound(new, mask=not isinstance(value, nn.Parameter)):
            raise SurgeryError(f"{given!r}, for {name!r}, holds NaN or infinity; nothing was written")
        staged[name], filled[id(value)] = new, name
        rows.append(Row(name, given, policy, *shapes))
    for name, value in staged.items():
        own[name].copy_(value)
    used = {row.source for row in rows if row.policy != "skip"}
    sizes = {id(value): value.numel() for value in own.values() if isinstance(value, nn.Parameter)}
    came = {id(own[r.target]): _taken(r) for r in rows if r.policy != "skip"}
    coverage = sum(came.get(key, 0) for key in sizes) / max(1, sum(sizes.values()))
    return Transplant(tuple(rows), tuple(name for name in theirs if name not in used), coverage)


def _by_name(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, str]:
    """The source's name for each of the target's that has one, as it is or without prefixes."""
    short: dict[str, list[str]] = {}
    for name in theirs:
        short.setdefault(_bare_name(name, prefixes), []).append(name)
    found = {}
    for name in own:
        same = short.get(_bare_name(name, prefixes), [])
        if name in theirs:
            found[name] = name
        elif len(same) == 1 and same[0] not in own:
            found[name] = same[0]
    return found


def _bare_name(name: str, prefixes: Sequence[str]) -> str:
    while start := next((prefix for prefix in prefixes if name.startswith(prefix) and name != prefix), ""):
        name = name.removeprefix(start)
    return name


def _by_order(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, str]:
    """Pairs of tensors with equal last names and shapes, in the order that both share."""
    ours, others = ([(n.rpartition(".")[2], tuple(v.shape)) for n, v in each.items()] for each in (own, theirs))
    names, named = list(own), list(theirs)
    matches = SequenceMatcher(None, ours, others, autojunk=False).get_matching_blocks()
    return {names[m.a + k]: named[m.b + k] for m in matches for k in range(m.size)}


def _fitted(name: str, own: Tensor, given: Tensor, allowed: Collection[Policy]) -> tuple[str, Tensor | None]:
    """`given` in the shape of `own` by the first policy that fits, and its name."""
    if own.is_floating_point() != given.is_floating_point():
        return "skip", None
    if own.shape == given.shape:
        return "exact", given.to(own)
    for policy in allowed:
        if policy == "interpolate" and (grown := _interpolated(name, own, given)) is not None:
            return policy, grown.to(own)
        if policy in ("slice", "pad") and own.dim() == given.dim() > 0:
            bigger = any(a > b for a, b in zip(own.shape, given.shape, strict=True))
            smaller = any(a < b for a, b in zip(own.shape, given.shape, strict=True))
            if ({"pad"} if bigger else set()) | ({"slice"} if smaller else set()) <= set(allowed):
                corner = tuple(slice(min(sizes)) for sizes in zip(own.shape, given.shape, strict=True))
                new = own.detach().clone()
                new[corner] = given[corner].to(own)
                return ", ".join(["slice"] * smaller + ["pad"] * bigger), new
    return "skip", None


_MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def _interpolated(name: str, own: Tensor, given: Tensor) -> Tensor | None:
    """A kernel or a position embedding of another size; None if it is neither."""
    places, spatial = (
        "pos" in name,
        own.dim() == given.dim() and own.dim() in (3, 4, 5) and own.shape[:2] == given.shape[:2],
    )
    if spatial and not (places and own.dim() == 3):
        size = own.shape[2:]
        return _resized(given.float(), size) * (1.0 if places else prod(given.shape[2:]) / prod(size))
    if not places or own.dim() != given.dim() or own.dim() not in (2, 3) or own.shape[-1] != given.shape[-1]:
        return None
    if own.dim() == 3 and (len(own) != 1 or len(given) != 1):
        return None
    ours, theirs = own.shape[-2], given.shape[-2]
    tokens = given.float().reshape(theirs, -1)
    for first in (0, 1, 2) if own.dim() == 3 else ():
        sides = isqrt(max(0, theirs - first)), isqrt(max(0, ours - first))
        if sides[0] and sides[1] and (sides[0] ** 2 + first, sides[1] ** 2 + first) == (theirs, ours):
            grid = tokens[first:].T.reshape(1, -1, sides[0], sides[0])
            spread = _resized(grid, torch.Size([sides[1], sides[1]])).flatten(2)[0].T
            return torch.cat([tokens[:first], spread]).view(own.shape)
    return _resized(tokens.T[None], torch.Size([ours]))[0].T.reshape(own.shape)


def _resized(values: Tensor, size: torch.Size) -> Tensor:
    """`values` (a, b, *size) with other sizes; the mean of a constant stays."""
    mode = _MODES[len(size)]
    return F.interpolate(values, size=tuple(size), mode=mode, align_corners=False, antialias=mode == "bicubic")


def _sound(value: Tensor, *, mask: bool) -> bool:
    """Whether all numbers are finite, but for infinities in a buffer, which may be a mask."""
    return not value.is_floating_point() or not bool((value.isnan() if mask else ~value.isfinite()).any())


def _taken(row: Row) -> int:
    """How many numbers of the target's tensor came over."""
    if row.policy == "interpolate":
        return prod(row.own)
    return prod(min(sizes) for sizes in zip(row.own, row.theirs, strict=True))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"
