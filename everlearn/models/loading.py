"""Weights in files: read without running anything, fitted to a model all or nothing, and what came of it."""

import io
import json
import os
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from mmap import ACCESS_READ, mmap
from pathlib import Path
from pickle import UnpicklingError  # the name of an error: nothing is unpickled here
from typing import BinaryIO, Literal, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from everlearn.checkpoint import write
from everlearn.models.classes import Classes
from everlearn.models.heads import grow, head_of
from everlearn.models.views import bare

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.")
"""What wrappers put before the names of weights: DDP, `torch.compile`, Lightning and the like."""

NESTS = ("state_dict", "model", "model_state_dict", "net", "weights", "ema", "params")
"""Where checkpoints keep a state dict among other things; the first of these that holds tensors is taken."""

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".ckpt", ".bin")
"""The endings of the files that `torch.save` writes."""


class LoadError(ValueError):
    """Weights that were refused; the model is as it was. `report` tells how they fitted, if that is known."""

    def __init__(self, message: str, report: "Report | None" = None) -> None:
        super().__init__(message)
        self.report = report


class Mismatch(NamedTuple):
    """A tensor with one shape in the file and another in the model."""

    name: str
    saved: tuple[int, ...]
    own: tuple[int, ...]


class Conversion(NamedTuple):
    """A tensor that was saved in one dtype, and that the model has in another."""

    name: str
    saved: torch.dtype
    own: torch.dtype


@dataclass(frozen=True)
class Report:
    """What of a file a model took, and what not.

    `coverage` is the share of the model's parameters, in numbers and not in tensors, that the file filled;
    rows of the head that were to stay fresh do not count. Names are the model's own, but those of
    `unexpected` tensors and of `ignored` entries, which are no tensors, are the file's.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    converted: tuple[Conversion, ...]
    ignored: tuple[str, ...]
    prefix: str
    head: str
    coverage: float

    def table(self) -> list[tuple[str, str, str]]:
        """A row for each tensor and each other entry: its name, what became of it, and a detail."""
        converted = {name: f"{_dtype(saved)} to {_dtype(own)}" for name, saved, own in self.converted}
        return [
            *((name, "loaded", converted.get(name, "")) for name in self.loaded),
            *((name, "missing", "") for name in self.missing),
            *((name, "mismatched", _shapes(saved, own)) for name, saved, own in self.mismatched),
            *((name, "unexpected", "") for name in self.unexpected),
            *((name, "ignored", "no tensor") for name in self.ignored),
        ]

    def __str__(self) -> str:
        lines = [
            f"{self.coverage:.1%} of the parameters loaded, in {len(self.loaded)} tensors",
            f"head: {self.head}",
        ]
        if self.prefix:
            lines.append(f"prefix stripped: {self.prefix!r}")
        kinds = {f"converted: {_dtype(saved)} to {_dtype(own)}" for _, saved, own in self.converted}
        lists = {
            "missing": self.missing,
            "mismatched": [f"{name} ({_shapes(saved, own)})" for name, saved, own in self.mismatched],
            "unexpected": self.unexpected,
            "ignored": self.ignored,
        }
        lists = {what: names for what, names in lists.items() if names}
        return "\n".join(
            [
                *lines,
                *sorted(kinds),
                *(f"{what} ({len(names)}): {_listed(names)}" for what, names in lists.items()),
            ]
        )


# -- into a model --------------------------------------------------------------------------------------------


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, object],
    *,
    coverage: float = 0.9,
    head: Literal["strict", "skip", "grow"] = "strict",
    head_name: str | None = None,
    prefixes: Sequence[str] = PREFIXES,
) -> Report:
    """Fills `model` from a file (see `read_weights`) or from the mapping in one, and says what was loaded.

    Of the `prefixes`, in any order and repeated, those are stripped that make most tensors fit. What has
    the shape that the model has is loaded, in the model's dtype. The classification head, `head_name` or
    else the last linear layer, decides what predictions mean, so it has a rule of its own:

    * "strict": all of it must come from the source;
    * "skip": it is left as it is, whatever the source holds;
    * "grow": the saved rows become its first ones, after it has been given more outputs if the source has
      more. Its Parameters are new ones then: make the optimizer afterwards.

    Less than `coverage` of the parameters, a head against its rule, a NaN or an infinity (but a buffer may
    hold -inf, as masks do) are a LoadError, and nothing at all is written. `num_batches_tracked` may be
    missing.
    """
    if head not in {"strict", "skip", "grow"}:
        raise ValueError(f'head must be "strict", "skip" or "grow", but is {head!r}')
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage must be a share from 0 to 1, but is {coverage}")
    model = bare(model)
    own = _own(model)
    if isinstance(source, Mapping):
        origin = "the mapping"
        saved, ignored = _state_dict(source, origin)
    else:
        origin = os.fspath(source)
        saved, ignored = _read(Path(source))
    prefix, originals = _strip(saved, own, prefixes)
    found = {name: saved[original] for name, original in originals.items() if name in own}
    layer, outputs, parts = _head(model, head_name, required=head != "strict" or head_name is not None)
    kept = parts if head == "skip" else set()
    lengths = {len(found[name]) for name in parts & found.keys() if found[name].dim()}
    grows = parts if head == "grow" and len(lengths) == 1 else set()

    staged = {
        name: _converted(name, own[name], value)
        for name, value in found.items()
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
    )
    refusals = []
    if not staged or report.coverage < coverage:
        refusals.append(
            f"fills {report.coverage:.1%} of its parameters, but at least {coverage:.0%} were asked for: is "
            "it of another architecture? To fill a part, load into that part; to accept less, lower coverage"
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
        raise ValueError(f"{_listed(lazy)} have no size yet: run one batch through the model first")
    if empty := [name for name, value in own.items() if value.is_meta]:
        raise ValueError(f"the model has no memory for {_listed(empty)}: call model.to_empty(device=...) first")
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
            f"{name!r} is {_dtype(saved.dtype)} in the file and {_dtype(own.dtype)} in the model, not a "
            "matter of precision (quantized weights?): convert it where it is known what it means"
        )
    value = saved.to(own.dtype)
    mask = not isinstance(own, nn.Parameter)
    if not _finite(value, mask=mask):
        cause = (
            f"overflows {_dtype(own.dtype)}, the dtype of the model"
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


# -- from files ----------------------------------------------------------------------------------------------

_EXPORT = "where the model was made: torch.save(model.state_dict(), path)"

_MOST_TENSORS = 100_000
"""A file of 200,000 empty tensors took safetensors 14 s to read; no model has as many in one file."""

_MOST_CLAIMED = 100
"""How often the bytes of a file may be claimed by its tensors: tied weights are written once."""

_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
    struct.error,
)
"""What parsers raise on files that are damaged, or made to damage."""

_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer in place of the file: run `git lfs pull`",
    b"<!": "a page of HTML: the download gave a web page",
    b"<html": "a page of HTML: the download gave a web page",
    b"<?xml": "a page of XML: the download gave a message of the server",
    b"\x89HDF": "an HDF5 file: export it from Keras to safetensors",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"PK\x03\x04": "a zip archive, as torch.save writes: name it .pth",
}


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; nothing in the file is ever run.

    `.safetensors` files are read by safetensors, all others (`.pth`, `.pt`, `.th`, `.ckpt`, `.bin`) by
    `torch.load(weights_only=True)`. In a checkpoint, the state dict is looked for under the names of
    `NESTS`, in that order. Entries that are no tensors are left out; `load_weights` reports them. A file
    that is missing, damaged, something else, or made to exhaust the machine is a LoadError that says so.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    _present(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ()
    with path.open("rb") as file:
        zipped = _is_archive(file, path)
        file.seek(0)
        try:
            with warnings.catch_warnings():  # torch wonders about foreign formats: they are read or refused here
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
        except _BROKEN as error:
            raise LoadError(f"{path} {_diagnosis(file, error, zipped=zipped)}; {_EXPORT}") from None
        size = os.fstat(file.fileno()).st_size
    weights, ignored = _state_dict(content, str(path))
    if (claimed := sum(value.nbytes for value in weights.values())) > _MOST_CLAIMED * size:
        raise LoadError(f"{path} has {size} bytes, but its tensors claim {claimed}: it was made to fill memory")
    return weights, ignored


def _present(path: Path) -> None:
    if path.is_dir():
        raise LoadError(f"{path} is a folder; name the file of weights in it")
    if not path.is_file():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        raise LoadError(f"there is no file {path}" + (f"; did you mean {near[0]!r} beside it?" if near else ""))
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty: a download or a save broke off; {_EXPORT}")


def _is_archive(file: BinaryIO, path: Path) -> bool:
    """Whether torch will take the file for a zip archive; one made to fill the memory is a LoadError."""
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        zipped, size = data[:4] == b"PK\x03\x04", len(data)
        # The one call that torch grants to files, and that makes gigabytes of memory from a few bytes.
        if data.find(b"\nbytearray\n") >= 0:
            raise LoadError(f"{path} makes byte arrays of its own, as no file of weights does; {_EXPORT}")
    if not zipped:
        return False
    try:
        with ZipFile(file) as archive:
            entries = archive.infolist()
    except _BROKEN:
        raise LoadError(f"{path} is a damaged or truncated archive: fetch it again; {_EXPORT}") from None
    names = {entry.filename for entry in entries}
    if any(name.endswith("/constants.pkl") for name in names):
        raise LoadError(f"{path} is a TorchScript archive, which is a program: export the weights, {_EXPORT}")
    if sum(entry.filename.endswith("/data.pkl") for entry in entries) != 1 or len(names) < len(entries):
        raise LoadError(f"{path} is a zip archive, but not one that torch.save writes; {_EXPORT}")
    inflates = any(entry.compress_type != ZIP_STORED for entry in entries)
    if inflates or sum(entry.file_size for entry in entries) > size or len(entries) > _MOST_TENSORS:
        raise LoadError(f"{path} unpacks to more than it is, which no file of torch.save does; {_EXPORT}")
    return True


def _diagnosis(file: BinaryIO, error: Exception, *, zipped: bool) -> str:
    """What is wrong with a file that torch refused with `error`."""
    if not isinstance(error, UnpicklingError):
        first = str(error).partition("\n")[0][:200]
        return f"is damaged, truncated, or no file of weights ({type(error).__name__}: {first})"
    # The message of this error is left out: it advises to load the file in the way that runs it.
    file.seek(0)
    if not zipped:
        what = _signature(file.read(32))
        return f"is {what}" if what else "holds Python objects, which would have to run, or no weights at all"
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except _BROKEN:
        foreign = []
    return f"holds Python objects, which would have to run: {_listed(sorted(foreign)) or 'unreadable ones'}"


def _signature(start: bytes) -> str | None:
    return next((what for magic, what in _SIGNATURES.items() if start.lstrip().startswith(magic)), None)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if len(names) > _MOST_TENSORS:
                raise LoadError(f"{path} holds {len(names)} tensors; at most {_MOST_TENSORS} are read")
            # Copies, because safetensors gives views into the file, which would change with it.
            return {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise LoadError(_not_safetensors(path, error)) from None


def _not_safetensors(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        what = _signature(file.read(32))
    return f"{path} is {what or f'damaged, or no safetensors file ({error})'}"


def _state_dict(content: object, origin: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors by name in a checkpoint, and the names of its other entries."""
    ignored: list[str] = []
    for _ in range(4):  # a mapping may hold itself
        nest = next((key for key in NESTS if isinstance(content, Mapping) and _is_nest(content.get(key))), None)
        if not isinstance(content, Mapping) or nest is None:
            break
        ignored += [_key(key) for key in content if key != nest]
        content = content[nest]
    if not isinstance(content, Mapping):
        raise LoadError(f"{origin} holds a {type(content).__name__}, but not tensors by name; {_EXPORT}")
    weights = {
        key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not weights:
        nests = [_key(key) for key, value in content.items() if _is_nest(value)]
        way_out = f"pass the mapping under {_listed(nests)} itself" if nests else _EXPORT
        raise LoadError(f"{origin} has no tensors, but {_listed([_key(key) for key in content])}; {way_out}")
    for name, value in weights.items():
        _sound(name, value, origin)
    return weights, (*ignored, *(_key(key) for key in content if key not in weights))


def _is_nest(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(part, Tensor) or (key in NESTS and isinstance(part, Mapping)) for key, part in value.items()
    )


def _key(key: object) -> str:
    return key if isinstance(key, str) else f"a {type(key).__name__}"


def _sound(name: str, value: Tensor, origin: str) -> None:
    """Refuses a tensor that is less than it says: a copy of it would need memory that the file never had."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise LoadError(f"{name!r} in {origin} is sparse, quantized or without data; save it as a dense tensor")
    held = value.untyped_storage().nbytes()
    if held < value.nbytes:
        raise LoadError(
            f"{name!r} in {origin} claims {value.nbytes} bytes, but holds {held}: it is expanded, or made to "
            "fill memory; save it with .contiguous()"
        )


# -- into files ----------------------------------------------------------------------------------------------


def save_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    classes: Iterable[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the state of `model`, so that a crash at any instant leaves the old file or the new one, whole.

    The ending of `path` chooses the format: `.safetensors`, which can also hold the names of the `classes`
    and further `metadata`, or one of `TORCH_SUFFIXES` for `torch.save` of the plain state dict. The names
    are those of the bare model, without the prefixes of DDP and `torch.compile`. Tied weights stay tied in
    files of torch; safetensors files hold them under each of their names.
    """
    path, model = Path(path), bare(model)
    if path.suffix not in {".safetensors", *TORCH_SUFFIXES}:
        known = ", ".join([".safetensors", *TORCH_SUFFIXES])
        raise ValueError(f"the ending of {path.name!r} names no format of weights; known are {known}")
    if path.suffix != ".safetensors" and not (classes is None and metadata is None):
        raise ValueError(f"{path.name!r} would hold tensors only; classes and metadata need .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name!r} to; make it first")
    state = model.state_dict()
    if foreign := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"the model has state that is no tensor, which files of weights cannot hold: {_listed(foreign)}"
        )
    state = {name: value.cpu() for name, value in state.items()}
    if path.suffix == ".safetensors":
        notes = {"format": "pt", **(metadata or {})}
        if classes is not None:
            notes["classes"] = json.dumps(Classes(classes).names)
        write(path, _as_safetensors(state, notes))
    else:
        content = io.BytesIO()  # torch's own writer says little about a full disk
        torch.save(state, content)
        write(path, content.getvalue())


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The names of the classes that `save_weights` wrote into a `.safetensors` file, or None."""
    path = Path(path)
    _present(path)
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise LoadError(_not_safetensors(path, error)) from None
    if "classes" not in notes:
        return None
    try:
        return Classes(json.loads(notes["classes"])).names
    except (ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"the classes in {path} are no list of different names: {error}") from None


def _as_safetensors(state: Mapping[str, Tensor], notes: dict[str, str]) -> bytes:
    from safetensors.torch import save  # noqa: PLC0415

    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        storage = value.untyped_storage().data_ptr()
        plain[name] = value.contiguous() if storage not in seen else value.clone(memory_format=torch.contiguous_format)
        seen.add(storage)
    content: bytes = save(plain, metadata=notes)
    return content


# -- in words ------------------------------------------------------------------------------------------------


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:100]) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shapes(saved: tuple[int, ...], own: tuple[int, ...]) -> str:
    return f"saved {'x'.join(map(str, saved))}, model {'x'.join(map(str, own))}"
