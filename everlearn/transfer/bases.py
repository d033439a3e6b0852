"""A base: the pretrained model that learning begins with, and what must be known to use it rightly."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, Rows, join
from everlearn.data.order import batches
from everlearn.data.rows import Columns
from everlearn.data.transforms import View
from everlearn.models.body import look
from everlearn.models.classes import Classes
from everlearn.models.heads import drawn, own_parameters
from everlearn.models.report import Report
from everlearn.models.saving import save_weights
from everlearn.objective import Objective, Viewed, classify
from everlearn.randomness import mix
from everlearn.transfer.preprocessing import ImagePreprocessing, Preprocessing, to_plain

Kind = Literal["image", "text", "detection", "other"]
Tell = Callable[[nn.Module, int, tuple[str, ...] | None], None]


@dataclass
class Base:
    """A model to begin with, and what its makers said of it: None is what is not known.

    `source` is the text that names it. `head` is the layer that gives an output for each class, `classes` their names
    in this order. `weights` says where the weights came from, None that they are random; `licence` is that of the
    weights. `report` tells what was loaded. `objective` asks this kind of model, and learns from a column "y".
    `notes` is what else its library needs to make it again from a file; `tell` lets its module know how many outputs
    it has, and their names.
    """

    module: nn.Module
    source: str
    kind: Kind = "other"
    preprocessing: Preprocessing | None = None
    head: str | None = None
    classes: tuple[str, ...] | None = None
    weights: str | None = None
    licence: str | None = None
    report: Report | None = None
    objective: Objective = classify
    notes: dict[str, Any] | None = None
    tell: Tell | None = None

    @property
    def input_size(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of an image as the model sees it; None where it is not known or not fixed."""
        told = self.preprocessing
        return (told.channels, *told.size) if isinstance(told, ImagePreprocessing) and told.size else None

    def view(self, augment: Iterable[str] = (), column: str | None = None) -> View:
        """What the model sees of raw rows (images in "x", or texts in "text"): for `Learner(view=base.view())`."""
        if self.preprocessing is None:
            if self.kind == "text":
                raise ValueError(
                    f"{self.source} has no tokenizer; save the one that it was trained with beside it "
                    "(tokenizer.save_pretrained(FOLDER)), or open it with preprocessing=TextPreprocessing(...)"
                )
            raise ValueError(
                f"how {self.source} is to see its input is not known; open it with preprocessing=, such as "
                'ImagePreprocessing(resize=256, crop=(224, 224), mean=..., std=...), or {"mean": ..., "std": ...}'
            )
        return self.preprocessing.view(augment) if column is None else self.preprocessing.view(augment, column)

    def features(self, rows: Rows, *, batch_size: int = 64) -> Columns:
        """Rows whose "x" is what goes into the head (float32, in RAM); other columns stay, but for texts.

        Raw rows come in, and are seen in this model's own size. The mean over places stands for the places that a
        head of convolutions sees. A base without preprocessing sees the rows as they are.
        """
        head = self._head_name()
        seen = self.objective if self.preprocessing is None else Viewed(self.objective, self.view())
        parts = []
        for batch in batches(rows, torch.arange(len(rows)), batch_size):
            _, x = look(self.module, batch, seen, head)
            parts.append(
                {name: column for name, column in batch.items() if name != "text"}
                | {"x": self._pooled(x).float().cpu()}
            )
        if not parts:
            raise ValueError("there are no rows to make features of")
        return Columns(join(*parts))

    def logits(self, batch: Batch) -> Tensor:
        """What the model answers for raw rows: in eval mode, without gradients, and the model stays as it is."""
        seen = self.objective if self.preprocessing is None else Viewed(self.objective, self.view())
        return look(self.module, batch, seen, self._head_name())[0].logits

    def replace_head(self, classes: Iterable[str], *, seed: int = 0) -> tuple[str, ...]:
        """Gives the head one output for each of `classes`, in this order, and says which of them it knew already.

        The rows of classes that are known by name go to their new places, bit for bit; the others are drawn as those
        of a new layer, from `seed` and the name's place alone. The layer is the same object with new Parameters: make
        the optimizer afterwards.
        """
        names = Classes(classes).names
        if not names:
            raise ValueError("a head must have at least one class")
        head = self._head_name()
        layer = self._layer(head)
        known = {name: row for row, name in enumerate(self.classes or ())}
        kept = tuple(name for name in names if name in known)
        parts = own_parameters(self.module, head) if isinstance(layer, nn.Linear) else dict(layer.named_parameters())
        fresh = new_rows(layer, len(names), seed)
        places = torch.tensor([row for row, name in enumerate(names) if name in known], dtype=torch.int64)
        rows = torch.tensor([known[name] for name in kept], dtype=torch.int64)
        for part, old in parts.items():
            new = fresh[part].to(old)
            new[places.to(old.device)] = old.detach()[rows.to(old.device)]
            setattr(layer, part, nn.Parameter(new, requires_grad=old.requires_grad))
        sized(self, layer, len(names), names)
        self.classes = names
        return kept

    def save(self, path: str | os.PathLike[str]) -> None:
        """One .safetensors file with the weights, classes, preprocessing and all else: `open_base(path)` opens it."""
        plain = None if self.preprocessing is None else to_plain(self.preprocessing)
        told = {
            "source": self.source,
            "preprocessing": plain,
            "head": self.head,
            "licence": self.licence,
            "notes": self.notes,
        }
        save_weights(self.module, path, self.classes, {"everlearn.base": json.dumps(told)})

    def _head_name(self) -> str:
        if self.head is None:
            raise ValueError(
                f"{self.source} has no one layer that gives an output for each class; "
                + (
                    "the heads of detectors are replaced by everlearn.transfer.surgery"
                    if self.kind == "detection"
                    else "open it with head_name= if one of its layers is that"
                )
            )
        return self.head

    def _layer(self, head: str) -> nn.Linear | nn.Conv2d:
        layer = self.module.get_submodule(head)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ValueError(  # noqa: TRY004 (what is wrong is the name)
                f"the head {head!r} of {self.source} is a {type(layer).__name__}; its rows can be replaced in an "
                "nn.Linear or nn.Conv2d only: name the layer with head_name="
            )
        return layer

    def _pooled(self, x: Tensor) -> Tensor:
        """The mean over the places at which a head of convolutions is applied."""
        layer = self.module.get_submodule(self._head_name())
        if isinstance(layer, nn.Conv2d):
            return x.reshape(len(x), layer.in_channels, -1).mean(2)
        if isinstance(layer, nn.Linear) and x.shape[1] != layer.in_features:
            raise ValueError(
                f"the head {self.head!r} of {self.source} answers for each of {x.shape[1] // layer.in_features} "
                "places of a row, so its input is no row of features; name another layer with head_name="
            )
        return x


def new_rows(layer: nn.Linear | nn.Conv2d, outputs: int, seed: int) -> dict[str, Tensor]:
    """The weight and the bias of a new layer with so many outputs, in the shape of `layer`."""
    weight, bias = drawn(outputs, prod(layer.weight.shape[1:]), mix(seed, outputs))
    return {"weight": weight.reshape(outputs, *layer.weight.shape[1:]), "bias": bias}


def sized(base: Base, layer: nn.Linear | nn.Conv2d, outputs: int, names: tuple[str, ...] | None) -> None:
    """Tells the head, and the model around it, how many outputs there are now."""
    if isinstance(layer, nn.Linear):
        layer.out_features = outputs
    else:
        layer.out_channels = outputs
    if base.tell is not None:
        base.tell(base.module, outputs, names)
    elif isinstance(vars(base.module).get("num_classes"), int):
        base.module.num_classes = cast("Any", outputs)
