"""Bases of Hugging Face transformers, for images and for texts: the model, its image processor or its tokenizer."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, tensor
from everlearn.models.named import written
from everlearn.models.reading import read_weights
from everlearn.models.report import LoadError, Mismatch, Report
from everlearn.models.vision_ops import torchvision
from everlearn.objective import Output, classify
from everlearn.spec import nearest
from everlearn.transfer.bases import Base
from everlearn.transfer.preprocessing import ImagePreprocessing, Preprocessing, TextPreprocessing

_DONE = {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "do_flip_channel_order"}
"""The steps of image processors that `ImagePreprocessing` can do, or that need not be done."""

_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""The resampling filters of PIL, by number."""

_RUNS = {"trust_remote_code", "code_revision", "auto_map"}
"""Settings with which transformers would run code that it finds beside a model."""

_MOST_TOKENS = 512
"""How many tokens a text has at most, where neither the tokenizer nor the model sets a bound."""

_BYTE = 255.0


def answer_pixels(model: Callable[..., Any], batch: Batch) -> Output:
    """`classify`, for models that take `pixel_values` and answer with an object."""
    return classify(lambda x: model(pixel_values=x).logits, batch)


def answer_tokens(model: Callable[..., Any], batch: Batch) -> Output:
    """`classify`, for models that take `input_ids` and `attention_mask` and answer with an object."""
    mask = tensor(batch, "attention_mask")
    rest = {name: column for name, column in batch.items() if name not in {"input_ids", "attention_mask"}}
    return classify(
        lambda ids: model(input_ids=ids, attention_mask=mask).logits, rest | {"x": tensor(batch, "input_ids")}
    )


def _transformers() -> Any:
    with suppress(ImportError):  # texts do not need it, and image processors say themselves that they do
        torchvision()  # which transformers imports, and which may have to be mended first
    try:
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "this needs transformers, which is not installed: pip install 'everlearn[transformers]'"
        ) from error
    return transformers


def _types() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The types of models that classify images, and those that classify texts."""
    _transformers()
    from transformers.models.auto import modeling_auto  # noqa: PLC0415

    return (
        modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )


def names() -> Collection[str]:
    """The types of models that can classify; any folder, and any name of the hub, is one more."""
    images, texts = _types()
    return [*images, *(name for name in texts if name not in images)]


def make(name: str, settings: Mapping[str, Any], notes: Mapping[str, Any] | None, *, default: bool) -> Base:
    """The base of a folder that `save_pretrained` wrote, of the hub, or of a type of model, as its makers set it.

    `settings` change the config. `notes` hold the config of a base that was saved, which needs no folder any more.
    """
    library, folder = _transformers(), Path(name)
    if strange := sorted(_RUNS & settings.keys()):
        raise ValueError(f"{strange[0]!r} would run code of others; make the model yourself, and pass the module")
    source = written(f"hf:{name}", settings)
    if notes is not None:
        config = library.AutoConfig.for_model(**notes["config"])
        return _described(_new(config), source, None)
    if name in names() and not folder.is_dir():
        if default:
            raise ValueError(f"hf:{name} is a type of model and has no weights; name a folder, or a model of the hub")
        config = library.AutoConfig.for_model(name, **settings)
        return _described(_new(config), source, _default_processor(config))
    if not folder.is_dir() and "/" not in name and not default:
        near = nearest(name, names())
        raise ValueError(f"there is no folder {name!r} and no type of model of that name{near}")
    with _reached(name):
        config = library.AutoConfig.from_pretrained(name, **settings)
        preprocessing = _own_preprocessing(library, name, folder, config)
        safe = any(folder.glob("*.safetensors"))
        pickled = [] if any(folder.glob("model*.safetensors")) else sorted(folder.glob("pytorch_model*.bin"))
        for file in pickled:
            read_weights(file)  # refuses what would have to run, in our words: those of torch advise to run it
        if default or safe or pickled:
            return _loaded(name, source, config, preprocessing)
    return _described(_new(config), source, preprocessing)


def of(module: nn.Module) -> Base:
    """The base of a module of transformers, as yet without preprocessing."""
    return _described(module, f"hf:{vars(module)['config'].model_type}", None)


def rename(module: nn.Module, outputs: int, names: tuple[str, ...] | None) -> None:
    """Tells the model how many outputs it has, and what they are called."""
    config = vars(module)["config"]
    config.id2label = dict(enumerate(names or (f"LABEL_{row}" for row in range(outputs))))
    config.label2id = {name: row for row, name in config.id2label.items()}
    module.num_labels = outputs  # type: ignore[assignment]  # modules take any attribute


def encoder(tokenizer: str, max_length: int, pad_id: int) -> Callable[[list[str]], tuple[Tensor, Tensor]]:
    """From texts to token ids and their mask, by a tokenizer in JSON."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    try:
        made = Tokenizer.from_str(tokenizer)
    except Exception as error:  # (the library raises no narrower one)
        raise ValueError(f"the tokenizer of this preprocessing cannot be read: {error}") from error
    made.enable_truncation(max_length)
    made.enable_padding(pad_id=pad_id)

    def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
        coded = made.encode_batch(texts)
        return torch.tensor([each.ids for each in coded]), torch.tensor([each.attention_mask for each in coded])

    return encode


def text_preprocessing(tokenizer: Any, max_length: int | None = None) -> TextPreprocessing:
    """The preprocessing of a fast tokenizer of transformers; `max_length` is its own bound, or at most 512 tokens."""
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is written in Python; a fast tokenizer can be saved with a model")
    bound = min(int(tokenizer.model_max_length), _MOST_TOKENS) if max_length is None else max_length
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return TextPreprocessing(tokenizer.backend_tokenizer.to_str(), bound, pad)


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """Around what may ask the hub: without a network, one error that says what to do."""
    try:
        yield
    except OSError as error:
        first = str(error).partition("\n")[0]
        if Path(name).is_dir():
            raise ValueError(f"the folder of hf:{name} is no model that save_pretrained wrote: {first}") from error
        raise ValueError(
            f"hf:{name} is no folder here, and could not be downloaded ({first}); where there is a network: "
            f"AutoModel.from_pretrained({name!r}).save_pretrained(FOLDER), then hf:FOLDER"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without a bar for the tensors that are read, and with one report of them, ours; then all is as it was."""
    logging = _transformers().utils.logging
    shown, said = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(said)
        if shown:
            logging.enable_progress_bar()


def _new(config: Any) -> nn.Module:
    """A model of the config with random weights."""
    try:
        module: nn.Module = _auto(config).from_config(config)
    except ValueError as error:
        raise ValueError(f"a {config.model_type} classifies neither images nor texts: {error}") from error
    return module


def _auto(config: Any) -> Any:
    """What makes a classifier of this config."""
    library = _transformers()
    if config.model_type in _types()[0]:
        return library.AutoModelForImageClassification
    return library.AutoModelForSequenceClassification


def _loaded(name: str, source: str, config: Any, preprocessing: Preprocessing | None) -> Base:
    """The base with the weights of its folder or of the hub."""
    with _silent():
        module, told = _auto(config).from_pretrained(
            name, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    module.train()  # as every new module is
    base = _described(module, source, preprocessing)
    own = dict(module.named_parameters())
    wrong = {each[0]: Mismatch(each[0], tuple(each[1]), tuple(each[2])) for each in told["mismatched_keys"]}
    fresh = {*told["missing_keys"], *wrong}
    head = {each for each in own if base.head is not None and each.startswith(f"{base.head}.")}
    body = {each: weight.numel() for each, weight in own.items() if each not in head}
    base.report = Report(
        loaded=tuple(each for each in module.state_dict() if each not in fresh),
        missing=tuple(sorted({*told["missing_keys"]} - head)),
        unexpected=tuple(sorted(told["unexpected_keys"])),
        mismatched=tuple(wrong.values()),
        converted=(),
        ignored=(),
        prefix="",
        head=f"{base.head!r}, left as it is" if head & fresh else f"{base.head!r}, loaded",
        coverage=sum(size for each, size in body.items() if each not in fresh) / max(1, sum(body.values())),
    )
    if base.report.coverage < _ENOUGH:
        raise LoadError(f"{source} fills too little of its own model:\n{base.report}", base.report)
    base.weights = name
    labels = tuple(str(config.id2label[row]) for row in sorted(config.id2label))
    known = not (head & fresh) and len(set(labels)) == len(labels) and not any(x.startswith("LABEL_") for x in labels)
    base.classes = labels if known else None
    return base


_ENOUGH = 0.9
"""The share of the body that the weights of a folder must fill; a head may be new, as the report says."""


def _described(module: nn.Module, source: str, preprocessing: Preprocessing | None) -> Base:
    images, _ = _types()
    config = vars(module)["config"]
    is_image = config.model_type in images
    body = f"{module.base_model_prefix}."  # it may be registered behind the head, as in XLM-RoBERTa
    named = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    head, last = next((each for each in reversed(named) if not each[0].startswith(body)), (None, None))
    if isinstance(preprocessing, TextPreprocessing) and (room := _room(module, config)):
        preprocessing = replace(preprocessing, max_length=min(preprocessing.max_length, room))
    return Base(
        module,
        source,
        "image" if is_image else "text",
        preprocessing,
        head if last is not None and last.out_features == config.num_labels else None,
        objective=answer_pixels if is_image else answer_tokens,
        notes={"config": {**config.to_dict(), "model_type": config.model_type}},
        tell=rename,
    )


def _room(module: nn.Module, config: Any) -> int | None:
    """How many tokens the model has positions for; None where its config sets no bound.

    Models such as RoBERTa begin to count them after the place of the padding.
    """
    called = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    most: int | None = config.to_dict().get(called)
    tables = [layer for name, layer in module.named_modules() if name.endswith("position_embeddings")]
    padding = [each.padding_idx for each in tables if isinstance(each, nn.Embedding)]
    return most and most - max((place + 1 for place in padding if place is not None), default=0)


def _own_preprocessing(library: Any, name: str, folder: Path, config: Any) -> Preprocessing | None:
    images, _ = _types()
    if config.model_type in images:
        if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
            return _default_processor(config)
        return image_preprocessing(library.AutoImageProcessor.from_pretrained(name).to_dict())
    if folder.is_dir() and not any(folder.glob("tokenizer*")):
        return None
    return text_preprocessing(library.AutoTokenizer.from_pretrained(name))


def _default_processor(config: Any) -> ImagePreprocessing | None:
    """What the image processor of this type of model does, at the size of the config, if it is one of images."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES  # noqa: PLC0415

    library = _transformers()
    kinds = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if config.model_type not in _types()[0] or not kinds:
        return None
    told = vars(library).get(kinds["pil"]) or getattr(library, kinds["pil"])
    made = image_preprocessing(told().to_dict())
    size = config.to_dict().get("image_size")
    if size is None:
        return made
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return ImagePreprocessing(sides, None, made.interpolation, made.mean, made.std, made.channels, made.order)


def image_preprocessing(told: Mapping[str, Any]) -> ImagePreprocessing:
    """What an image processor with this config does; what cannot be done is a ValueError that names it."""
    kind = told.get("image_processor_type", "the image processor")
    strange = [key for key, value in told.items() if key.startswith("do_") and value and key not in _DONE]
    resample = int(told.get("resample") or 2)
    size = dict(told.get("size") or {}) if told.get("do_resize") else {}
    if resample not in _FILTERS:
        strange.append(f"resample={resample}")
    if size and not ({"height", "width"} <= size.keys() or "shortest_edge" in size):
        strange.append(f"size={size}")
    if strange:
        raise ValueError(f"{kind} asks for {', '.join(strange)}, which is not known here; give preprocessing= instead")
    resize: int | tuple[int, int] | None = None
    crop = told.get("crop_size") if told.get("do_center_crop") else None
    sides = None if crop is None else (crop["height"], crop["width"])
    if "shortest_edge" in size:
        resize = int(size["shortest_edge"])
        if told.get("crop_pct") is not None:  # ConvNeXT: small ones are cut, large ones are squeezed
            sides, resize = (
                ((resize, resize), int(resize / told["crop_pct"])) if resize < _SQUEEZED else (None, (resize,) * 2)
            )
    elif size:
        resize = (int(size["height"]), int(size["width"]))
    factor = told["rescale_factor"] if told.get("do_rescale") else 1.0
    shift = 1.0 if told.get("rescale_offset") else 0.0
    mean, std = (told["image_mean"], told["image_std"]) if told.get("do_normalize") else ([0.0] * 3, [1.0] * 3)
    if told.get("include_top"):  # EfficientNet divides twice
        std = [each * other for each, other in zip(std, told["image_std"], strict=True)]
    return ImagePreprocessing(
        resize,
        sides,
        _FILTERS[resample],
        tuple((each + shift) / (_BYTE * factor) for each in mean),
        tuple(each / (_BYTE * factor) for each in std),
        len(mean),
        "bgr" if told.get("do_flip_channel_order") else "rgb",
    )


_SQUEEZED = 384
"""The side from which ConvNeXT's processor squeezes images instead of cutting them."""
