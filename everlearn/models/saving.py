"""Weights into files: whole or not at all."""

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from everlearn.checkpoint import write
from everlearn.models.classes import Classes
from everlearn.models.report import listed
from everlearn.models.views import bare

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".ckpt", ".bin")
"""The endings of the files that `torch.save` writes."""


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
            f"the model has state that is no tensor, which files of weights cannot hold: {listed(foreign)}"
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
