"""Bases of timm: the model, and its `pretrained_cfg`."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from everlearn.models.named import written
from everlearn.models.report import Report
from everlearn.models.vision_ops import torchvision
from everlearn.spec import nearest
from everlearn.transfer.bases import Base
from everlearn.transfer.preprocessing import ImagePreprocessing

_OURS = ("checkpoint_path", "cache_dir")


def _timm() -> Any:
    torchvision()  # which timm imports, and which may have to be mended first
    try:
        import timm  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("this needs timm, which is not installed: pip install 'everlearn[vision]'") from error
    return timm


def names() -> Collection[str]:
    """The models of this timm."""
    found: Collection[str] = _timm().list_models()
    return found


def make(name: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None, *, default: bool) -> Base:  # noqa: ARG001
    """The base NAME or NAME.TAG, as in resnet50.a1_in1k: the tag says how to preprocess, loaded or not."""
    timm = _timm()
    plain, dot, tag = name.partition(".")
    if not timm.is_model(plain):
        raise ValueError(f"timm has no model {plain!r}{nearest(plain, names())}")
    ours = (*_OURS, "num_classes") if default else _OURS
    if strange := [key for key in settings if key in ours or key.startswith("pretrained")]:
        raise ValueError(f"{strange[0]!r} is no setting of a base: use weights= and classes= of open_base")
    if dot and (tags := [each.partition(".")[2] for each in timm.list_pretrained(plain)]) and tag not in tags:
        raise ValueError(f"timm has no weights {tag!r} of {plain}; it has {', '.join(tags)}")
    try:
        module: nn.Module = timm.create_model(name, pretrained=default, **settings)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"timm:{name} cannot be made with {dict(settings)}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not default:
            raise
        where = timm.get_pretrained_cfg(name).hf_hub_id
        raise ValueError(
            f"the weights of timm:{name} could not be downloaded ({error}); fetch model.safetensors of "
            f"https://huggingface.co/{where} where there is a network, and give the file: weights=PATH"
        ) from error
    base = of(module, settings)
    base.source = written(f"timm:{name}", settings)
    if default:
        config: Mapping[str, Any] = vars(module)["pretrained_cfg"]
        base.weights, base.licence = f"{config['architecture']}.{config['tag']} of timm", config.get("license")
        head = "the model has none" if base.head is None else f"{base.head!r}, loaded"
        base.report = Report(tuple(module.state_dict()), (), (), (), (), (), "", head, 1.0)  # timm loads all or raises
        base.classes = _classes(timm, module, base)
    return base


def of(module: nn.Module, settings: Mapping[str, Any] | None = None) -> Base:
    """The base of a module of timm."""
    config: Mapping[str, Any] = vars(module)["pretrained_cfg"]
    channels, height, width = config["input_size"]
    size = (settings or {}).get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    channels = (settings or {}).get("in_chans", channels)
    told = _timm().data.resolve_data_config({"input_size": (channels, height, width)}, model=module)
    head = config.get("classifier")
    layers = dict(module.named_modules())
    return Base(
        module,
        type(module).__name__,
        "image",
        _input(told),
        head if isinstance(head, str) and isinstance(layers.get(head), nn.Linear | nn.Conv2d) else None,
    )


def _input(told: Mapping[str, Any]) -> ImagePreprocessing:
    """What timm's transform for evaluation does."""
    channels, height, width = told["input_size"]
    scaled = (int(height / told["crop_pct"]), int(width / told["crop_pct"]))
    mean, std = tuple(told["mean"]), tuple(told["std"])
    if len(mean) not in {1, channels}:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    if told["crop_mode"] == "center" and height != width:
        raise ValueError(f"timm keeps the sides of an image in cutting {height}x{width}; give preprocessing= instead")
    return ImagePreprocessing(
        scaled[0] if told["crop_mode"] == "center" else scaled,
        (height, width),
        told["interpolation"],
        mean,
        std,
        channels,
    )


def _classes(timm: Any, module: nn.Module, base: Base) -> tuple[str, ...] | None:
    """The WordNet names of the classes of ImageNet, where the weights are of one of its sets."""
    subset = timm.data.infer_imagenet_subset(module)
    if subset is None or base.head is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_label_name(row) for row in range(info.num_classes()))
