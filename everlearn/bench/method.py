"""A method from its text, with all of its randomness from one seed."""

from dataclasses import fields

from everlearn.method import Method
from everlearn.methods import METHODS
from everlearn.methods.composition import build
from everlearn.spec import Spec, parse_chain


def made(text: str, seed: int) -> Method:
    """The method that `text` describes. What it draws, its memory and it itself, follows from `seed`.

    >>> made("gdumb:epochs=1", seed=5).seed
    5
    """
    specs = [
        Spec(spec.name, {"seed": seed, **spec.settings}) if _draws(spec.name) else spec for spec in parse_chain(text)
    ]
    return build("+".join(map(str, specs)), seed=seed)


def _draws(name: str) -> bool:
    return name in METHODS and "seed" in {field.name for field in fields(METHODS[name])}
