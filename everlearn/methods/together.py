"""Which methods can work in one chain: what cannot is an error that says why, and never a silent order."""

from collections.abc import Sequence

from everlearn.method import Method
from everlearn.methods import METHODS, GrowHead, LoRA


def together(names: Sequence[str]) -> None:
    """Raises a ValueError unless these methods can work in one chain, in this order."""
    alone = [name for name in names if METHODS[name].card.alone]
    rest = [name for name in names if name not in alone[:1] and METHODS[name] is not GrowHead]
    if alone and rest:
        raise ValueError(
            f"{alone[0]} takes no step along a gradient of its batches, and leaves {', '.join(rest)} nothing to take "
            f"part in; use {alone[0]} alone"
        )
    answering = [name for name in names if METHODS[name].predict is not Method.predict]
    if len(answering) > 1:
        raise ValueError(
            f"{' and '.join(answering)} each give the answers in their own way, so only one would be heard"
        )
    bending = [name for name in names if METHODS[name].card.family == "gradient"]
    if len(bending) > 1:
        raise ValueError(
            f"{' and '.join(bending)} each project the gradient, and what the last one does breaks what the others "
            "guarantee; choose one"
        )
    adapting = [name for name in names if issubclass(METHODS[name], LoRA)]
    stepping = [name for name in names if METHODS[name].before_step is not Method.before_step]
    if adapting and len(stepping) > 1:
        raise ValueError(
            f"{adapting[0]} turns the gradients of weights into those of adapters, which {' and '.join(stepping)} "
            "cannot share; use one of them, with methods that add to the loss (ewc, mas, lwf, er, derpp ...)"
        )
    behind = names[names.index(bending[0]) + 1 :] if bending else ()
    if late := [name for name in behind if METHODS[name].before_step is not Method.before_step]:
        raise ValueError(
            f"{late[0]} behind {bending[0]} would measure gradients that are projected already; put it first: "
            f"{late[0]}+{bending[0]}"
        )
