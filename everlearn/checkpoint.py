"""Checkpoints: anything with a state_dict, written whole or not at all.

A checkpoint is one file: a line with a name, a version and the SHA-256 of these and all that follows, then a tree
of plain values in JSON, then its tensors in safetensors. Nothing in it is code, nothing is loaded unverified.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAGIC = "everlearn-checkpoint"
_VERSION = 1


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or comes from a newer version; or a state that cannot be saved."""


class NewerError(CheckpointError):
    """A whole checkpoint in a format that this version does not know yet."""


def save(state: dict[str, Any], path: str | Path) -> None:
    """Writes `state` (dicts, lists, tuples, tensors and plain values) to `path`, durably and in one piece.

    Raises a CheckpointError that names the place of a value that cannot be held.
    """
    from safetensors.torch import save as as_bytes  # noqa: PLC0415 (everlearn imports without it)

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors, "state")).encode()
    body = len(tree).to_bytes(8, "little") + tree + as_bytes(_apart(tensors))
    write(path, f"{_MAGIC} {_VERSION} {_digest(str(_VERSION), body)}\n".encode(), body)


def load(path: str | Path) -> dict[str, Any]:
    """The state that `save` wrote to `path`; raises a CheckpointError for anything else."""
    from safetensors.torch import load as from_bytes  # noqa: PLC0415

    content = Path(path).read_bytes()
    head, _, body = content.partition(b"\n")
    words = head[:200].decode("ascii", errors="replace").split(" ")
    if len(words) != 3 or words[0] != _MAGIC:
        raise CheckpointError(f"{path} is not a checkpoint of everlearn")
    _, version, digest = words
    if _digest(version, body) != digest:
        raise CheckpointError(f"{path} is damaged: its content does not have the checksum it was written with")
    if int(version) > _VERSION:
        raise NewerError(f"{path} has the format {version}, but this version reads up to {_VERSION}; update everlearn")
    size = int.from_bytes(body[:8], "little")
    state: dict[str, Any] = _unpack(json.loads(body[8 : 8 + size]), from_bytes(body[8 + size :]))
    return state


def _digest(version: str, body: bytes) -> str:
    digest = sha256(f"{_MAGIC} {version} ".encode())
    digest.update(body)
    return digest.hexdigest()


def write(path: str | Path, *parts: bytes) -> None:
    """Replaces the file at `path`: after a crash at any moment it holds either the old content or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Makes the names in `folder` durable: without it a power cut may take back a rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _pack(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """`value` as JSON; its tensors go to `tensors`. Everything but str, bool, int and None carries its kind."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.dtype == torch.complex128:
            raise CheckpointError(
                f"{place} is a tensor of {value.dtype}, {value.layout}, on {value.device}; only dense ones are held"
            )
        name = str(len(tensors))
        tensors[name] = _plain(value)
        return {"tensor": name, "stride": list(value.stride()) if _permuted(value) else None}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value if math.isfinite(value) else str(value)}
    if isinstance(value, dict):
        return {"dict": [[_key(key, place), _pack(item, tensors, f"{place}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]}
    raise CheckpointError(
        f"{place} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, lists, tuples and dicts"
    )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with a copy of each that shares its memory with one before it: tied weights, slices."""
    seen, apart = set(), {}
    for name, value in tensors.items():
        memory = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return apart


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise CheckpointError(f"{place} has the key {key!r}; keys are strings or whole numbers")


def _plain(value: Tensor) -> Tensor:
    """The values themselves, on the CPU, in the usual order: no lazy conjugate or negative."""
    return value.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _permuted(value: Tensor) -> bool:
    """Whether the tensor is dense with its dimensions in another order than usual, as channels_last has them.

    The order decides which kernel runs, and so the last bits of a result: even where a dimension of size 1 makes it
    look like the usual one.
    """
    usual = torch.empty(value.shape, device="meta").stride()
    if value.stride() == usual or value.numel() == 0:
        return False
    span = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)) + 1
    return span == value.numel() and 0 not in value.stride()


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        value, stride = tensors[node["tensor"]], node["stride"]
        return value if stride is None else torch.empty_strided(value.shape, stride, dtype=value.dtype).copy_(value)
    ((kind, content),) = node.items()
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


class Checkpoints:
    """The checkpoints of one run in one folder: the last `keep`, taken every so many steps or seconds."""

    def __init__(
        self, folder: str | Path, *, every_steps: int | None = None, every_seconds: float | None = None, keep: int = 3
    ) -> None:
        self.folder, self.keep = Path(folder), keep
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self._steps = 0
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Called after each step: whether it is time to save."""
        self._steps += 1
        if self.every_steps is not None and self._steps >= self.every_steps:
            return True
        return self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: dict[str, Any], number: int) -> Path:
        """Saves `state` under `number`, and lets go of the oldest checkpoints beyond `keep`."""
        path = self.folder / f"{number:012d}.checkpoint"
        save(state, path)
        self._steps, self._saved_at = 0, time.monotonic()
        for old in self.paths()[: -self.keep]:
            old.unlink()
        return path

    def paths(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(self.folder.glob("*.checkpoint"))

    def load(self, report: Callable[[str], None] = print) -> dict[str, Any] | None:
        """The newest state that is whole, or None if there has never been one.

        Damaged checkpoints are reported and set aside. If there are some but none is whole, that is a
        CheckpointError: a run never starts from the beginning in silence.
        """
        for unfinished in self.folder.glob(".*.checkpoint.*"):  # of a process that was killed while it wrote
            unfinished.unlink()
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load(path)
            except NewerError:
                raise  # it is whole, so nothing older may take its place
            except CheckpointError as error:
                report(f"{error}; going back to the one before it")
                path.rename(path.with_suffix(".damaged"))
        if paths or list(self.folder.glob("*.damaged")):
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} is whole; nothing was started from scratch"
            )
        return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works in a run."""
    import fcntl  # noqa: PLC0415 (Windows has none, and can do all but this)

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process works on the run in {folder}; wait for it, or stop it") from error
        yield


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and bool(_bits(first).equal(_bits(second)))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first) and math.isnan(second):
        return True
    return type(first) is type(second) and bool(first == second)


def _bits(value: Tensor) -> Tensor:
    """The tensor as bytes, so that NaN equals NaN and 0 differs from -0."""
    return _plain(value).view(-1).view(torch.uint8) if value.numel() else _plain(value)
