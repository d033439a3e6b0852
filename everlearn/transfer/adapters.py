"""Adapters of peft: LoRA layers beside a frozen base, and all that must be saved with them.

The methods `lora`, `olora` and `inflora` adapt weight by weight and leave the modules of a model as they are; these
put peft's own layers into it, whose files other programs read. What is learned is the same.
"""

import os
import re
from collections import Counter
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from everlearn.border import positive
from everlearn.models.heads import head_of
from everlearn.models.nets import MultiHead
from everlearn.models.scope import at_rest
from everlearn.models.views import bare
from everlearn.models.vision_ops import torchvision
from everlearn.randomness import seeded

_BASE = "base.sha256"
"""The file beside an adapter that tells which base it is for."""


def adapt(
    model: nn.Module,
    *,
    r: int = 8,
    alpha: float = 16.0,
    targets: str = ".*",
    dropout: float = 0.0,
    head: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The model with LoRA layers W + alpha / r B A in it, for a learner; `model` itself becomes their frozen base.

    `targets` is a regular expression for the names of the linear layers and convolutions that are adapted, as
    `model.named_modules()` has them. The head (the linear layer `head`, or the last) learns as a whole, and so does
    batch normalisation, statistics included: both are saved with the adapter, for without its statistics a saved model
    is another one. Let a head grow before. A is drawn from `seed`, B is 0: the answers are those of `model` at first.

    Left out are convolutions of several groups, layers whose weight stands in another place, too (merging would change
    it there), and what torch computes past the layer's own forward: inside `nn.MultiheadAttention` and
    `nn.TransformerEncoderLayer` (the methods `lora`, `olora` and `inflora` adapt these).
    Hu et al. 2022, arXiv:2106.09685. Needs peft.
    """
    positive(r=r)
    peft, model = _peft(), bare(model)
    answering = [f"heads.{task}" for task in range(len(model.heads))] if isinstance(model, MultiHead) else []
    answering = answering or [head_of(model, head)[0]]
    resting = at_rest(model)
    norms = [n for n, m in model.named_modules() if isinstance(m, _NormBase) and resting.get(n) != "frozen"]
    saved = [*norms, *answering]
    can = [name for name in _adaptable(model) if name not in answering]
    chosen = [name for name in can if re.fullmatch(targets, name)]
    if not chosen:
        raise ValueError(
            f"no layer of {type(model).__name__} that can be adapted has a name that matches targets={targets!r}; "
            f"there are {', '.join(can) or 'none outside its head'}"
        )
    _unmistakable(model, saved)
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(map(re.escape, chosen)),
        modules_to_save=saved,
    )
    with seeded(seed):
        adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted.train(model.training)


def save_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes what `adapt` added and what it lets learn into `folder`, as peft does: a .safetensors file and settings.

    One more file tells the base by a hash of its frozen weights.
    """
    adapted = _adapted(model)
    adapted.save_pretrained(os.fspath(folder), save_embedding_layers=False)
    (Path(folder) / _BASE).write_text(_fingerprint(adapted) + "\n", encoding="ascii")


def load_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> nn.Module:
    """The model with the adapter that `save_adapter`, or peft, wrote to `folder`; it can go on learning.

    `model` is the base as it was before `adapt`, and becomes the frozen base. A ValueError where it is another one, or
    has other weights; a folder of peft's does not tell.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no adapter: there is no adapter_config.json in it")
    training, model = model.training, bare(model)
    try:
        adapted: nn.Module = _peft().PeftModel.from_pretrained(model, os.fspath(folder), is_trainable=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter in {folder} does not fit this {type(model).__name__}: {error}") from error
    if (folder / _BASE).is_file() and (folder / _BASE).read_text(encoding="ascii").strip() != _fingerprint(adapted):
        raise ValueError(
            f"the adapter in {folder} was made for a base with other weights; load those into the model first"
        )
    return adapted.train(training)


def merge_adapter(model: nn.Module) -> nn.Module:
    """The base, as a plain module again, with what the adapter learned in its weights; `model` is used up."""
    training = model.training
    plain: nn.Module = _adapted(model).merge_and_unload()
    return plain.train(training)


def _adaptable(model: nn.Module) -> list[str]:
    """The names of layers whose forward is what computes them, with weights of their own."""
    past = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    bypassed = {id(layer) for module in model.modules() if isinstance(module, past) for layer in module.modules()}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    places = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, layer in model.named_modules()
        if name
        and type(layer) in kinds
        and id(layer) not in bypassed
        and places[id(layer.weight)] == 1
        and not (isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups > 1)
    ]


def _unmistakable(model: nn.Module, saved: list[str]) -> None:
    """Raises a ValueError where peft, which goes by the ends of names, would take other modules for the `saved`."""
    for name in saved:
        others = [other for other, _ in model.named_modules() if other.endswith(name) and other not in saved]
        if others:
            raise ValueError(
                f"peft would take {others[0]!r} for {name!r}, because its name ends like that; give the parts of the "
                "model names: nn.Sequential(OrderedDict(body=..., head=...))"
            )


def _adapted(model: nn.Module) -> Any:
    if not isinstance(bare(model), _peft().PeftModel):
        raise TypeError(f"this is a {type(bare(model)).__name__} without adapters of peft; adapt(model) makes one")
    return bare(model)


def _fingerprint(adapted: Any) -> str:
    """A hash of the frozen weights of the base, under the names that they had before."""
    names = {
        name.replace(".base_layer.", "."): value
        for name, value in adapted.get_base_model().state_dict().items()
        if not re.search(r"\.(lora_|modules_to_save\.|original_module\.)", name)
    }
    digest = sha256()
    for name, value in sorted(names.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _peft() -> ModuleType:
    try:
        if find_spec("peft") is not None and find_spec("torchvision") is not None:
            torchvision()  # peft imports it, by way of transformers, and so it may have to be mended first
        import peft  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("adapters need peft, which is not installed: pip install 'everlearn[peft]'") from error
    module: ModuleType = peft
    return module
