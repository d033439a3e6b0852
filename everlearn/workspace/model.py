"""The model that a user names, with weights from a file, and asked whether it can answer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from everlearn import border
from everlearn.batch import Rows
from everlearn.data import Subset, view
from everlearn.data.items import two_sides
from everlearn.learner import Learner
from everlearn.models import head_of, load_weights
from everlearn.models.named import build_model, foreign
from everlearn.models.report import Report
from everlearn.objective import Objective, classify, regress
from everlearn.randomness import mix, seeded
from everlearn.transfer.freezing import freeze_as
from everlearn.transfer.preprocessing import changed
from everlearn.workspace.config import Config, normalization, sides


@dataclass(frozen=True)
class Loaded:
    """A model, what was loaded into it, and the base that it is of, if it is of one."""

    model: nn.Module
    report: Report | None
    base: Any = None
    """An `everlearn.transfer.Base`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it is known to answer for."""
        return () if self.base is None else self.base.classes or ()

    @property
    def text(self) -> bool:
        """Whether its rows are texts."""
        return self.base is not None and self.base.kind == "text"

    def objective(self, task: str) -> Objective:
        """What it is trained for."""
        if task == "regression":
            return regress
        asked: Objective = classify if self.base is None else self.base.objective
        return asked

    @property
    def prepares(self) -> bool:
        """Whether it knows how its input is prepared."""
        return self.base is not None and self.base.preprocessing is not None

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and width of images for it, before its view takes what it sees."""
        return self.base.preprocessing.load_size if self.prepares and self.base.kind == "image" else None


def load_model(config: Config, classes: tuple[str, ...] = ()) -> Loaded:
    """The model with its weights, and what was loaded; its head has as many outputs as the weights have.

    A base that is to be tuned gets a head for `classes`, where they are given.
    """
    if config.base:
        loaded = _open(config, classes)
    else:
        with seeded(mix(config.seed)):  # what the weights leave out is the same for each contender
            model = build_model(config.model)
        options: dict[str, Any] = {"head": "grow", "head_name": config.head or None}
        loaded = Loaded(model, load_weights(model, config.weights, coverage=config.coverage, **options))
    if config.freeze:
        freeze_as(loaded.model, config.freeze, norm=config.norm, head=config.head or None)
    return loaded


def _open(config: Config, classes: tuple[str, ...]) -> Loaded:
    from everlearn.transfer.opening import open_base  # noqa: PLC0415 (its libraries are extras)

    default = "default" if config.base.partition(":")[0] in _LIBRARIES else ""
    weights = config.weights or default
    options: dict[str, Any] = {"head_name": config.head or None, "coverage": config.coverage, "seed": mix(config.seed)}
    try:
        base = open_base(config.base, None if weights in {"", "none"} else weights, **options)
    except ImportError as error:  # an optional dependency, with the way to install it
        raise ValueError(str(error)) from error
    if config.weights == "none" and base.weights is not None:
        raise ValueError(
            f"{config.base} holds its own weights, so there is none of it without them; name the model itself, as in "
            "torchvision:NAME or FILE.py:NAME"
        )
    if base.kind == "image" and base.preprocessing is not None:
        base.preprocessing = changed(base.preprocessing, _asked(config))
    if classes and config.strategy:
        base.replace_head(classes, seed=mix(config.seed))
    return Loaded(base.module, base.report, base)


def _asked(config: Config) -> dict[str, Any]:
    """What the config says of the input of a base, in place of the base's own."""
    asked: dict[str, Any] = {}
    if config.normalize:
        asked |= moments(config.normalize)
    if config.size:
        asked |= {"resize": two_sides(sides(config.size)), "crop": None}
    return asked


def moments(normalize: str) -> dict[str, Any]:
    """The mean and the standard deviation of each channel that --normalize says; None where nothing is scaled."""
    said = view(normalize=normalization(normalize)).normalize
    return {"mean": said and said.mean, "std": said and said.std}


_LIBRARIES = ("torchvision", "timm", "hf")
"""Whose bases have weights of their own, which are taken where none are given."""


def outputs_of(model: nn.Module, config: Config) -> int:
    """How many outputs the head has."""
    return head_of(model, config.head or None)[1].out_features


def few(rows: Rows) -> Rows:
    """The first two rows: enough to try a model on."""
    return Subset(rows, torch.arange(min(2, len(rows))))


def check_answers(config: Config, learner: Learner, rows: Rows) -> None:
    """Raises a ValueError unless the model takes such rows, and answers as its task asks it to."""
    with foreign(f"{_named(config)} cannot answer", but=(ValueError,)):
        border.fits(learner.model, rows, learner._seen(None), learner.device, labels=False)  # noqa: SLF001 (as it sees rows)
        logits: Any = learner.predict(rows.take(torch.arange(min(2, len(rows)))))
    if not isinstance(logits, torch.Tensor):
        raise ValueError(  # noqa: TRY004 (what is wrong is the model)
            f"{_named(config)} answers with a {type(logits).__name__}; expected one tensor, with a row for each row"
        )
    outputs = outputs_of(learner.model, config)
    if config.task == "classification" and logits.shape[1:] != (outputs,):
        name, _ = head_of(learner.model, config.head or None)
        raise ValueError(
            f"{_named(config)} answers with shape {tuple(logits.shape[1:])} for a row, but its head {name!r} has "
            f"{outputs} outputs; expected a logit for each output. If another layer is the head, name it: --head"
        )


def _named(config: Config) -> str:
    return config.model or config.base
