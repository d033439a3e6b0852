"""Which methods can work in one chain with one that weighs the exits of a model."""

from collections.abc import Sequence

from everlearn.methods import ERACE, METHODS, SCR, Hedge


def weighed(names: Sequence[str]) -> None:
    """Raises a ValueError where a method would stand between exits and what they learn."""
    asking = [name for name in names if METHODS[name] is Hedge]
    if not asking:
        return
    if behind := names[names.index(asking[0]) + 1 :]:
        first = "+".join((*behind, asking[0]))
        raise ValueError(f"{asking[0]} asks each exit of the model itself, so {behind[0]} must come first: {first}")
    own = ("frozen features", "adaptation", "test time")
    deaf = [n for n in names if METHODS[n].card.family in own or issubclass(METHODS[n], SCR | ERACE)]
    if deaf:
        raise ValueError(f"{deaf[0]} has a loss of its own in place of that of the exits; use it without {asking[0]}")
