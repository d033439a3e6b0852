"""Weights in files that somebody made: read without running anything, or refused with the reason."""

import json
import os
import struct
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from mmap import ACCESS_READ, mmap
from pathlib import Path
from pickle import UnpicklingError  # the name of an error: nothing is unpickled here
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from everlearn.models.classes import Classes
from everlearn.models.report import LoadError, listed

NESTS = (
    *("state_dict", "model", "model_state_dict", "net", "weights", "ema", "params"),
    *("model_ema", "state_dict_ema", "ema_state_dict"),
)
"""Where checkpoints keep a state dict among other things; the first of these that holds tensors is taken."""

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
    return read(Path(path))[0]


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The names of the classes that `save_weights` wrote into a `.safetensors` file, or None."""
    notes = read_metadata(path)
    if "classes" not in notes:
        return None
    try:
        return Classes(json.loads(notes["classes"])).names
    except (ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"the classes in {path} are no list of different names: {error}") from None


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts by name that `save_weights` wrote into a `.safetensors` file; files of torch have none."""
    path = Path(path)
    _present(path)
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise LoadError(_not_safetensors(path, error)) from None


def read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a file by name, and the names of what in it is none."""
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
    weights, ignored = state_dict_in(content, str(path))
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
    return f"holds Python objects, which would have to run: {listed(sorted(foreign)) or 'unreadable ones'}"


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


def state_dict_in(content: object, origin: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
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
        way_out = f"pass the mapping under {listed(nests)} itself" if nests else _EXPORT
        raise LoadError(f"{origin} has no tensors, but {listed([_key(key) for key in content])}; {way_out}")
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
