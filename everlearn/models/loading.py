"""Weights into a model: fitted all or nothing, and told what fitted."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from everlearn.models.adapting import ADAPTATIONS, adapt_all, has_positions
from everlearn.models.heads import grow, head_of
from everlearn.models.reading import read, state_dict_in
from everlearn.models.report import Conversion, LoadError, Mismatch, Report, dtype_name, listed
from everlearn.models.views import bare

PREFIXES = (
    *("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net."),
    *("base_model.", "feature_extractor.", "trunk.", "student.", "teacher.", "encoder_q.", "online_encoder."),
)
"""What wrappers put before the names of weights: DDP, `torch.compile`, Lightning, self-supervision and the like."""


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, object],
    *,
    coverage: float = 0.9,
    head: Literal["strict", "skip", "grow"] = "strict",
    head_name: str | None = None,
    prefixes: Sequence[str] = PREFIXES,
    adapt: Collection[str] = (),
) -> Report:
    """Fills `model` from a file (see `read_weights`) or from the mapping in one, and says what was loaded.

    Of the `prefixes`, in any order and repeated, those are stripped that make most tensors fit. What has
    the shape that the model has is loaded, in the model's dtype. The classification head, `head_name` or
    else the last linear layer, decides what predictions mean, so it has a rule of its own:

    * "strict": all of it must come from the source;
    * "skip": it is left as it is, whatever the source holds;
    * "grow": the saved rows become its first ones, after it has been given more outputs if the source has
      more. Its Parameters are new ones then: make the optimizer afterwards.

    `adapt` names what may be made to fit the input of this model, if it has another one: "positions" (learned
    positions, and patches of another size) and "channels" of the first layer (see `adapted`). The report names
    each tensor; positions that cannot be adapted are an error then. Nothing is adapted unasked: another shape
    says more often that the file is the wrong one, and what was adapted computes something else. A base for
    transfer is always used on other data, so `open_base` asks for both.

    Less than `coverage` of the parameters, a head against its rule, a NaN or an infinity (but a buffer may
    hold -inf, as masks do) are a LoadError, and nothing at all is written. `num_batches_tracked` may be
    missing.
    """
    if head not in {"strict", "skip", "grow"}:
        raise ValueError(f'head must be "strict", "skip" or "grow", but is {head!r}')
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage must be a share from 0 to 1, but is {coverage}")
    if strange := sorted(set(adapt) - set(ADAPTATIONS)):
        raise ValueError(f"adapt takes {' and '.join(ADAPTATIONS)}, but not {strange[0]!r}")
    model = bare(model)
    own = _own(model)
    if isinstance(source, Mapping):
        origin = "the mapping"
        saved, ignored = state_dict_in(source, origin)
    else:
        origin = os.fspath(source)
        saved, ignored = read(Path(source))
    prefix, originals = _strip(saved, own, prefixes)
    found = {name: saved[original] for name, original in originals.items() if name in own}
    layer, outputs, parts = _head(model, head_name, required=head != "strict" or head_name is not None)
    kept = parts if head == "skip" else set()
    lengths = {len(found[name]) for name in parts & found.keys() if found[name].dim()}
    grows = parts if head == "grow" and len(lengths) == 1 else set()

    fitting, adaptations = adapt_all(found, own, adapt)
    staged = {
        name: _converted(name, own[name], value)
        for name, value in fitting.items()
        if name not in kept and _fits(value, own[name], any_rows=name in grows)
    }
    # Weights tied to loaded ones, and counters of batches, are missing by name alone.
    filled = {id(own[name]): value.numel() for name, value in staged.items()}
    absent = [name for name in own if name not in staged and name not in kept]
    lacking = {name for name in parts - kept if id(own[name]) not in filled}
    report = Report(
        loaded=tuple(staged),
        missing=tuple(
            name
            for name in absent
            if not (name in found or id(own[name]) in filled or name.endswith("num_batches_tracked"))
        ),
        unexpected=tuple(original for name, original in originals.items() if name not in own),
        mismatched=tuple(
            Mismatch(name, tuple(found[name].shape), tuple(own[name].shape)) for name in absent if name in found
        ),
        converted=tuple(
            Conversion(name, found[name].dtype, own[name].dtype)
            for name in staged
            if found[name].dtype != own[name].dtype
        ),
        ignored=ignored,
        prefix=prefix,
        head=_verdict(layer, head, outputs, max(lengths) if grows else outputs, lacking=bool(lacking)),
        coverage=_coverage([own[name] for name in own if name not in kept], filled),
        adapted=tuple(each for each in adaptations if each.name in staged),
    )
    refusals = []
    if not staged or report.coverage < coverage:
        refusals.append(
            f"fills {report.coverage:.1%} of its parameters, but at least {coverage:.0%} were asked for: is "
            "it of another architecture? To fill a part, load into that part; to accept less, lower coverage"
        )
    if lost := [each.name for each in report.mismatched if "positions" in adapt and has_positions(each.name)]:
        refusals.append(
            f"has positions {listed(lost)} for which there is no rule: not of a square grid, or of a longer text. "
            "Make the model for as many positions, or leave them out of adapt to keep its own, untrained ones"
        )
    if lacking:
        refusals.append(
            f'does not fill its head {layer!r}: head="skip" leaves it as it is, head="grow" takes the '
            "saved rows if only their number differs, head_name= names another layer"
        )
    if refusals:
        reasons = "".join(f"\n- it {refusal}" for refusal in refusals)
        raise LoadError(f"nothing was loaded from {origin} into {type(model).__name__}:{reasons}\n{report}", report)
    _fill(model, staged, layer, grows)
    return report


def _own(model: nn.Module, name: str = "") -> dict[str, Tensor]:
    """The parameters and persistent buffers of `model`, itself called `name`, by their names."""
    state = model.state_dict(prefix=f"{name}." if name else "", keep_vars=True)
    own = {part: value for part, value in state.items() if isinstance(value, Tensor)}
    if lazy := [name for name, value in own.items() if is_lazy(value)]:
        raise ValueError(f"{listed(lazy)} have no size yet: run one batch through the model first")
    if empty := [name for name, value in own.items() if value.is_meta]:
        raise ValueError(f"the model has no memory for {listed(empty)}: call model.to_empty(device=...) first")
    return own


def _head(model: nn.Module, name: str | None, *, required: bool) -> tuple[str | None, int, set[str]]:
    """The name of the head, its outputs and its parameters; a model may have none, if none is `required`."""
    if not required and not any(isinstance(layer, nn.Linear) for layer in model.modules()):
        return None, 0, set()
    name, layer = head_of(model, name)
    return name, layer.out_features, set(_own(layer, name))


def _fits(saved: Tensor, own: Tensor, *, any_rows: bool) -> bool:
    return saved.shape == own.shape or (any_rows and saved.dim() > 0 and saved.shape[1:] == own.shape[1:])


def _coverage(asked: Iterable[Tensor], filled: Mapping[int, int]) -> float:
    """The share that is filled of the numbers in those of `asked` that are parameters, tied ones once."""
    sizes = {id(value): value.numel() for value in asked if isinstance(value, nn.Parameter)}
    wanted = sum(filled.get(key, size) for key, size in sizes.items())
    return sum(filled.get(key, 0) for key in sizes) / max(wanted, 1)


def _verdict(layer: str | None, rule: str, outputs: int, saved: int, *, lacking: bool) -> str:
    """What becomes of the head, in words."""
    if layer is None:
        return "the model has none"
    if rule == "skip":
        return f"{layer!r}, left as it is"
    if lacking:
        return f"{layer!r}, not filled"
    if saved > outputs:
        return f"{layer!r}, grown from {outputs} to {saved} outputs"
    return f"{layer!r}, loaded" if saved == outputs else f"{layer!r}, the first {saved} of {outputs} rows loaded"


def _fill(model: nn.Module, staged: Mapping[str, Tensor], layer: str | None, grows: set[str]) -> None:
    if grows := grows & staged.keys():
        grow(model, max(len(staged[name]) for name in grows), layer)
    state = model.state_dict()
    for name, value in staged.items():
        rest = state[name][len(value) :] if name in grows else None
        state[name] = value if rest is None else torch.cat([value.to(rest.device), rest])
    model.load_state_dict(state)


def _strip(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], prefixes: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The prefix without which most of `saved` fits `own`, and the saved name of each name without it."""
    candidates, longest = [""], [""]
    for _ in range(4):
        longest = [
            start + prefix
            for start in longest
            for prefix in prefixes
            if any(name.startswith(start + prefix) for name in saved)
        ]
        candidates += longest
    renamed = {prefix: _without(prefix, saved) for prefix in candidates}
    fitting = {
        prefix: sum(name in own and own[name].shape == saved[original].shape for name, original in names.items())
        for prefix, names in renamed.items()
    }
    best = max(candidates, key=fitting.__getitem__)  # of equals, the first: the shortest
    return best, renamed[best]


def _without(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Each name by itself without `prefix`; one that would become another that is there stays as it is."""
    present = dict.fromkeys(names)
    return {name if (short := name.removeprefix(prefix)) in present else short: name for name in present}


def _converted(name: str, own: Tensor, saved: Tensor) -> Tensor:
    """`saved` in the dtype of `own`, without NaN and infinities."""
    if saved.is_floating_point() != own.is_floating_point() or not torch.can_cast(saved.dtype, own.dtype):
        raise LoadError(
            f"{name!r} is {dtype_name(saved.dtype)} in the file and {dtype_name(own.dtype)} in the model, not a "
            "matter of precision (quantized weights?): convert it where it is known what it means"
        )
    value = saved.to(own.dtype)
    mask = not isinstance(own, nn.Parameter)
    if not _finite(value, mask=mask):
        cause = (
            f"overflows {dtype_name(own.dtype)}, the dtype of the model"
            if _finite(saved, mask=mask)
            else "holds NaN or infinity: the training had diverged, or the file is damaged"
        )
        raise LoadError(f"{name!r} {cause}; nothing was loaded")
    return value


def _finite(value: Tensor, *, mask: bool) -> bool:
    """Whether no number is NaN or infinite, but for -inf in a `mask`. The extremes tell: NaN is both."""
    if value.is_complex():
        value = torch.view_as_real(value)
    if not value.is_floating_point() or value.numel() == 0:
        return True
    low, high = value.aminmax()
    return bool(high.isfinite() and (mask or low.isfinite()))
