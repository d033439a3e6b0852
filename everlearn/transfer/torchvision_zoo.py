"""Bases of torchvision: the model, and what its weights say of themselves."""

from collections import Counter
from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

from torch import nn

from everlearn.models.loading import load_weights
from everlearn.models.named import written
from everlearn.models.vision_ops import torchvision
from everlearn.spec import nearest
from everlearn.transfer.bases import Base, Kind
from everlearn.transfer.preprocessing import ImagePreprocessing

_LATE = ("inception_v3", "googlenet")
"""What has a second head in training, for which there is no use in transfer."""


def names() -> Collection[str]:
    """The models of this torchvision, without those of quantized weights, which nothing can train."""
    return [name for name in torchvision().models.list_models() if not name.startswith("quantized_")]


def make(name: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None, *, default: bool) -> Base:  # noqa: ARG001
    """The base NAME or NAME.WEIGHTS, as in resnet50.IMAGENET1K_V1: these say how to preprocess, loaded or not."""
    models = torchvision().models
    name, dot, tag = name.partition(".")
    if name not in names():
        raise ValueError(f"torchvision has no model {name!r}{nearest(name, names())}")
    kinds = models.get_model_weights(name).__members__
    if dot and tag not in kinds:
        raise ValueError(f"torchvision has no weights {tag!r} of {name}; it has {', '.join(kinds)}")
    entry = kinds[tag] if tag else kinds["DEFAULT"]
    if strange := [key for key in settings if key.startswith("weights") or (key == "num_classes" and default)]:
        raise ValueError(f"{strange[0]!r} is no setting of a base: use weights= and classes= of open_base")
    options = dict(settings)
    if name in _LATE:
        options = {"aux_logits": False, "transform_input": default, "init_weights": True} | options
    outputs = options.get("num_classes", len(entry.meta.get("categories", ())))
    module = _made(models, name, options, entry if default else None)
    kind, preprocessing = _input(entry.transforms())
    source = written(f"torchvision:{name}{dot}{tag}", settings)
    base = Base(module, source, kind, preprocessing, _head(module, outputs) if kind == "image" else None)
    if default:
        base.report = load_weights(module, entry.get_state_dict(progress=False, check_hash=True))
        base.weights, base.licence = f"{entry!s} of torchvision", entry.meta.get("license")
        base.classes = _distinct(entry.meta.get("categories", ())) or None
    return base


def _made(models: Any, name: str, options: Mapping[str, Any], entry: Any) -> nn.Module:
    takes = signature(models.get_model_builder(name)).parameters
    bare = {"weights_backbone": None} if entry is None and "weights_backbone" in takes else {}
    try:
        module: nn.Module = models.get_model(name, weights=entry, **bare, **options)
    except OSError as error:
        raise ValueError(
            f"the weights of torchvision:{name} could not be downloaded ({error}); fetch {entry.url} where there is a "
            "network, and give the file: weights=PATH"
        ) from error
    except TypeError as error:
        raise ValueError(f"torchvision:{name} cannot be made with {dict(options)}: {error}") from error
    return module


def _input(transforms: Any) -> tuple[Kind, ImagePreprocessing | None]:
    """The kind of model, by its transforms, and what these do."""
    match type(transforms).__name__:
        case "ImageClassification":
            (crop,) = transforms.crop_size
            resize = transforms.resize_size
            return "image", ImagePreprocessing(
                resize[0] if len(resize) == 1 else tuple(resize),
                (crop, crop),
                str(transforms.interpolation.value),
                tuple(transforms.mean),
                tuple(transforms.std),
            )
        case "ObjectDetection":  # which resizes and normalises inside
            return "detection", ImagePreprocessing()
        case _:
            return "other", None


def _head(module: nn.Module, outputs: int) -> str | None:
    """The last layer with an output for each class, which may be one of convolutions (SqueezeNet)."""
    found = None
    for name, layer in module.named_modules():
        if (isinstance(layer, nn.Linear) and layer.out_features == outputs) or (
            isinstance(layer, nn.Conv2d) and layer.out_channels == outputs
        ):
            found = name
    return found


def _distinct(categories: Collection[str]) -> tuple[str, ...]:
    """The categories, with their places where a name stands for two: ImageNet has two cranes, a bird and a machine."""
    counts = Counter(categories)
    return tuple(name if counts[name] == 1 else f"{name} [{place}]" for place, name in enumerate(categories))
