"""What a user types to choose a thing and its settings: `er:memory=2000,count=64+ewc:lambda=100`."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Spec:
    """A name and its settings."""

    name: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name + (":" if self.settings else "") + ",".join(f"{k}={v}" for k, v in self.settings.items())


def parse(text: str) -> Spec:
    """One `name:key=value,key=value`; values are numbers, true, false, none or words.

    >>> parse("sgd:lr=0.01,momentum=0.9")
    Spec(name='sgd', settings={'lr': 0.01, 'momentum': 0.9})
    >>> parse("adam:betas=(0.9,0.99)").settings
    {'betas': (0.9, 0.99)}
    """
    name, _, rest = text.strip().partition(":")
    settings = {}
    for part in re.split(r",(?![^(]*\))", rest) if rest else ():  # a comma in brackets is part of a value
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"cannot read {part!r} in {text!r}; expected key=value, as in sgd:lr=0.01,momentum=0.9")
        if key.strip() in settings:
            raise ValueError(f"{text!r} gives {key.strip()!r} twice; give it once")
        settings[key.strip()] = literal(value.strip())
    return Spec(name.strip().lower(), settings)


def parse_chain(text: str) -> list[Spec]:
    """Several specs joined by `+`, in order.

    >>> [spec.name for spec in parse_chain("er:memory=100+ewc")]
    ['er', 'ewc']
    """
    named = re.sub(r"\bder\+\+", "derpp", text, flags=re.IGNORECASE)
    return [parse(part) for part in re.split(r"\+(?!\d)", named)]  # 1e+3 is a number


def literal(text: str) -> Any:
    """A number, true, false, none, or else the text itself.

    >>> [literal(word) for word in ("3", "1e-3", "true", "200MB")]
    [3, 0.001, True, '200MB']
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is known; otherwise a ValueError that suggests the nearest name and lists all."""
    known = sorted(known)
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to put behind a name that is not known, or nothing.

    >>> nearest("epoch", ["epochs", "seed"])
    " (did you mean 'epochs'?)"
    """
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def call(what: str, function: Callable[..., Any], settings: Mapping[str, Any], known: Iterable[str]) -> Any:
    """`function(**settings)`, once every setting is known; what it says of their values is a ValueError."""
    known = list(known)
    for key in settings:
        if key not in known:
            raise ValueError(f"{what} has no setting {key!r}{nearest(key, known)}; it has {', '.join(known) or 'none'}")
    try:
        return function(**settings)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in settings.items()) or "no settings"
        raise ValueError(f"{what} cannot be made with {given}: {error}") from error
