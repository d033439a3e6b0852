"""Which methods can work in one chain with one that adjusts the logits of the loss."""

from collections.abc import Sequence

from everlearn.methods import ERACE, METHODS, SCR, Hedge, ICaRL, LogitAdjust, LwFMC


def adjusted(names: Sequence[str]) -> None:
    """Raises a ValueError where the loss is no cross-entropy among all classes, or has rows that cannot be seen."""
    asking = [name for name in names if METHODS[name] is LogitAdjust]
    if not asking:
        return
    other = [name for name in names if issubclass(METHODS[name], ERACE | SCR | Hedge | ICaRL | LwFMC)]
    if other:
        raise ValueError(
            f"{other[0]} has a loss of its own in place of the cross-entropy among all classes that {asking[0]} "
            "adjusts; use one of them"
        )
    behind = [name for name in names[names.index(asking[0]) + 1 :] if METHODS[name].card.family == "replay"]
    if behind:
        raise ValueError(
            f"{behind[0]} joins rows whose classes {asking[0]} must see; put it first: {behind[0]}+{asking[0]}"
        )
