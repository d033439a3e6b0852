"""An online learner from what a user types, before any row is seen."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from functools import partial
from math import inf
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from everlearn.border import one_of
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.methods import METHODS
from everlearn.methods.composition import build
from everlearn.methods.frozen import Frozen
from everlearn.models.exits import OnlineMLP
from everlearn.models.named import build_model
from everlearn.models.nets import MLP
from everlearn.models.standardise import Standardise
from everlearn.models.targets import Targets
from everlearn.models.views import evaluating
from everlearn.objective import classify, regress
from everlearn.online.encoding import Encoder, Fields, Unseen
from everlearn.online.engine import Online
from everlearn.online.words import Words
from everlearn.randomness import mix, seeded
from everlearn.spec import call, parse, parse_chain
from everlearn.spec import one_of as known_as

FAR = 5.0
"""Deviations that inputs of a regression are from their mean at most: the default rate is stable with several such."""


def make_online(
    *,
    model: str = "mlp:hidden=64x64",
    method: str = "naive",
    optimizer: str = "sgd:lr=0.01",
    task: Literal["classification", "regression"] = "classification",
    seed: int = 0,
    encoder: str = "table",
    fields: Fields = (),
    classes: Sequence[str] = (),
    scale: bool = True,
    unseen: Unseen = "grow",
    dtype: Literal["float32", "float64"] = "float32",
    clip: float | None = None,
    device: str | None = None,
    fused: bool = False,
) -> Online:
    """An online learner that knows nothing yet: no field, no class; the same for the same `seed`.

    `model` is mlp:hidden=64x64,dropout=0.1, or linear, or hedge:layers=20,width=100, or identity (for methods that
    answer by themselves), all of which grow; or FILE.py:NAME(...), whose sizes `fields` and `classes` have to name.
    `encoder` is table:values=100,most=10000, or words:buckets=4096,field=NAME for rows that are texts. With `scale`,
    numbers are scaled by their mean and deviation so far, those to be predicted, too: see `Targets`.
    `fields`, `unseen` and `dtype` are those of `Encoder`. `fused` runs steps as recorded graphs, as in `Learner`.
    """
    one_of("task", task, ("classification", "regression"))
    regression = task == "regression"
    if regression and classes:
        raise ValueError(f"regression has no classes, but {', '.join(classes)} were named; leave them out")
    hedged = parse(model).name == "hedge" if ".py:" not in model else False
    _borderless(method, model)
    if hedged and method == "naive":
        method = "hedge"
    table = _encoder(encoder, fields, None if regression else classes, unseen, dtype)
    body = _body(model, table.width, task, len(classes), mix(seed, 1))
    scaled = Standardise(scale=scale, most=FAR if regression else inf)
    scaled.grow(table.left)
    targets = Targets() if regression and scale else None
    net = nn.Sequential(scaled, body) if targets is None else nn.Sequential(scaled, body, targets)
    if dtype == "float64":
        net.double()
    learner = Learner(
        net,
        build(method, seed=mix(seed, 2), regression=regression),
        targets.objective if targets is not None else regress if regression else classify,
        optimizer=_optimizer(optimizer),
        seed=seed,
        clip=clip,
        device=device,
        fused=fused,
    )
    return Online(learner, table, seed=mix(seed, 3))


def _encoder(
    text: str, fields: Fields, classes: Sequence[str] | None, unseen: Unseen, dtype: Literal["float32", "float64"]
) -> Encoder:
    spec = parse(text)
    if known_as("encoder", spec.name, ("table", "words")) == "table":
        made: Encoder = call(
            "table", partial(Encoder, fields, classes, unseen=unseen, dtype=dtype), spec.settings, ("values", "most")
        )
        return made
    if fields:
        raise ValueError("words has one text a row, and no columns that could be named; leave fields out")
    texts: Encoder = call("words", partial(Words, classes, dtype=dtype), spec.settings, ("buckets", "field"))
    return texts


def _body(text: str, inputs: int, task: str, classes: int, seed: int) -> nn.Module:
    outputs = 1 if task == "regression" else classes
    with seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)  # it grows
        if ".py:" in text:
            return _fitting(build_model(text), text, inputs, outputs)
        spec = parse(text)
        make, known = _MODELS[known_as("model", spec.name, _MODELS)]
        more = {"task": task} if spec.name == "hedge" else {}
        made: nn.Module = call(spec.name, partial(make, inputs, outputs, **more), spec.settings, known)
        return made


def _mlp(inputs: int, outputs: int, hidden: str | int = "64x64", dropout: float = 0.0) -> nn.Module:
    widths = str(hidden).split("x")
    if not all(width.isdecimal() and int(width) for width in widths):
        raise ValueError(f"hidden says the widths of layers, as in hidden=64x64, but is {hidden!r}")
    return MLP(inputs, tuple(map(int, widths)), outputs, dropout)


def _identity(_inputs: int, _outputs: int) -> nn.Module:
    return nn.Identity()


_MODELS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "mlp": (_mlp, ("hidden", "dropout")),
    "linear": (nn.Linear, ()),
    "identity": (_identity, ()),
    "hedge": (OnlineMLP, ("layers", "width", "at_input")),
}


def _fitting(model: nn.Module, text: str, inputs: int, outputs: int) -> nn.Module:
    if not inputs:
        raise ValueError(f"{text} has a size, so name its fields in their order: fields=[...], or --features")
    try:
        with torch.no_grad(), evaluating(model):
            answer = model(torch.zeros(2, inputs))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{text} takes no rows of {inputs} numbers, which the fields make: {error}") from error
    if outputs and isinstance(answer, torch.Tensor) and answer.shape[1:] != (outputs,):
        raise ValueError(f"{text} answers with {tuple(answer.shape[1:])} for a row, but there are {outputs} outputs")
    return model


def _optimizer(text: str) -> Callable[[list[nn.Parameter]], Optimizer]:
    spec = parse(text)
    takes = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        # LBFGS asks for the loss again and again, and SparseAdam for gradients that are sparse.
        if isinstance(cls, type) and issubclass(cls, Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam")
    }
    make: Callable[..., Optimizer] = takes[known_as("optimizer", spec.name, takes)]
    weight = nn.Parameter(torch.zeros(1, 1))
    call(spec.name, partial(make, [weight]), spec.settings, make([weight], lr=0.1).defaults)
    return partial(make, **spec.settings)


def _borderless(text: str, model: str) -> None:
    for spec in parse_chain(text):
        cls = METHODS[known_as("method", spec.name, METHODS)]
        if why := border_needed(cls):
            raise ValueError(
                f"{spec.name} {why}, and a stream has no borders; take er, der, derpp, agem, mir, or on frozen "
                "features slda, ncm, ridge, ranpac"
            )
        if model == "identity" and not issubclass(cls, Frozen):
            raise ValueError(f"identity has no weights that {spec.name} could train; take slda, ncm, ridge or ranpac")


def border_needed(cls: type[Method]) -> str:
    """Why a method cannot go without borders between experiences; "" if it can."""
    if cls.card.family in {"adaptation", "test time"}:
        return "learns from rows without labels beside labelled ones"
    if "task labels" in cls.card.needs:
        return "needs to know which task a row is of"
    # Those that only count experiences, or note whether one has begun, go on without; and one looks for exits.
    goes_on = {"experiences", "inside", "coming"} & {
        field.name for field in fields_of(cls)
    } or "exits" in cls.card.needs
    if cls.card.alone and cls.card.family != "frozen features":
        return "does all its work where an experience begins or ends"
    if goes_on or (cls.begin is Method.begin and cls.end is Method.end):
        return ""
    return "prepares itself where an experience begins or ends"
