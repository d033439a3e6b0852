"""Methods from what a user types: `er:memory=2000+ewc:lambda=100` becomes a chain, in that order."""

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_origin

from everlearn.memory import Balanced, LossAware, Memory, Ring
from everlearn.method import Chain, Method
from everlearn.methods import METHODS, GrowHead, Replay
from everlearn.methods.together import together
from everlearn.spec import Spec, call, one_of, parse_chain

MEMORIES: dict[str, type[Memory]] = {"balanced": Balanced, "lossaware": LossAware, "reservoir": Memory, "ring": Ring}

_SAID = {float | int: "a number", int: "a whole number", bool: "true or false", str | None: "a name (quote it: '2')"}


def build(
    text: str,
    *,
    seed: int = 0,
    grow: bool = False,
    head: str | None = None,
    regression: bool = False,
    folder: str | None = None,
) -> Method:
    """The method that `text` describes, for classes or, with `regression`, for numbers that are to be predicted.

    A method that replays takes `memory=ROWS` (or `memory=64MB`), `keep=balanced|lossaware|reservoir|ring` (default:
    balanced, or for numbers reservoir) and, with a `folder`, keeps its rows on disk there. `grow` puts a growing head
    in front, the layer named `head` or the last one. Raises a ValueError for what there is not, or does not fit.
    """
    specs = parse_chain(text)
    names = [spec.name for spec in specs]
    for name in names:
        one_of("method", name, METHODS)
    if len(names) > 1 and "naive" in names:
        raise ValueError(f"naive is the absence of a method, so {text!r} says nothing more than it does without naive")
    if double := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{text!r} names {', '.join(sorted(double))} twice; each method holds on to the past once")
    together(names, regression=regression)
    keep = "reservoir" if regression else "balanced"
    methods = [_method(spec, seed + place, keep, folder) for place, spec in enumerate(specs)]
    if grow and not any(isinstance(method, GrowHead) for method in methods):
        methods.insert(0, GrowHead(head, seed))
    return methods[0] if len(methods) == 1 else Chain(*methods)


def _method(spec: Spec, seed: int, keep: str, folder: str | None) -> Method:
    cls = METHODS[spec.name]
    known = [parameter.name for parameter in parameters(cls)]
    settings = ({"seed": seed} if "seed" in known else {}) | dict(spec.settings)
    made: Any = {field.name: field.type for field in fields(cls)}.get("memory")
    if made == Memory | None and settings.get("memory") is None:  # of use without one, too
        made = None
    elif made in {Memory, Memory | None}:  # else there is none, or one that goes with the method
        known += ["keep"]
        made = MEMORIES[one_of("memory", str(settings.pop("keep", keep)), MEMORIES)]
        if made is LossAware and not issubclass(cls, Replay):
            raise ValueError(f"lossaware goes by losses, which {spec.name} does not tell; take er, or keep=balanced")
    if made is not None:
        settings["memory"] = made(settings.get("memory", 2000), seed, folder=folder and f"{folder}/{spec.name}")
    method: Method = call(
        spec.name, lambda **given: cls(**{_field(cls, key): value for key, value in given.items()}), settings, known
    )
    for field in fields(cls):
        kind: Any = float | int if field.type is float else field.type
        if not field.init or get_origin(kind) is Literal:
            continue
        if isinstance(value := vars(method)[field.name], bool) != (kind is bool) or not isinstance(value, kind):
            raise ValueError(f"{spec.name}:{field.name.rstrip('_')} must be {_SAID.get(kind, kind)}, but is {value!r}")
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{spec.name}:{field.name.rstrip('_')} must not be negative, but is {value!r}")
    return method


def _field(cls: type[Method], key: str) -> str:
    """The field for a setting: the paper's lambda is no name in Python."""
    return f"{key}_" if f"{key}_" in {field.name for field in fields(cls)} else key


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter: its name, its default and its type."""

    name: str
    default: Any
    type: str


def parameters(cls: type[Method]) -> list[Parameter]:
    """The hyperparameters of a method, as a user types them."""
    return [
        Parameter(
            field.name.rstrip("_"),
            field.default if field.default is not MISSING else 2000 if field.name == "memory" else None,
            "rows or bytes" if field.name == "memory" else str(field.type),
        )
        for field in sorted(fields(cls), key=lambda field: field.kw_only is True)  # what is its own comes first
        if field.init
    ]
