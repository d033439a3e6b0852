"""Which methods can work in one chain: what cannot is an error that says why, and never a silent order."""

from collections.abc import Sequence

from everlearn.method import Method
from everlearn.methods import AGEM, GEM, METHODS, OGD, PNN, SCR, AutoRGN, BiC, GrowHead, LoRA, Naive, Thaw
from everlearn.methods.adjusted import adjusted
from everlearn.methods.prompted import prompted
from everlearn.methods.unlabelled import at_test_time, sided
from everlearn.methods.weighed import weighed

OF_CLASSES = frozenset({"cwr", "fecam", "lpft", "lwf", "ncm", "ogd", "probe", "ranpac", "ridge", "slda"})
"""Methods that learn classes, or with numbers would do nothing, and do not say so by themselves."""


def together(names: Sequence[str], *, regression: bool = False) -> None:
    """Raises a ValueError unless these methods can work in one chain, in this order, on classes or on numbers."""
    if regression and (named := [name for name in names if name in OF_CLASSES]):
        raise ValueError(
            f"{named[0]} is about classes, and here numbers are predicted; take er, derpp, si, mas or "
            "ewc:fisher=empirical, or for a transfer finetune"
        )
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
    comparing = [name for name in names if issubclass(METHODS[name], SCR)]
    asking = [name for name in names if METHODS[name].card.family in ("replay", "distillation")]
    asking += [name for name in names if issubclass(METHODS[name], AGEM | GEM | OGD)]
    if comparing and (others := [name for name in asking if name not in comparing]):
        raise ValueError(
            f"{comparing[0]} leaves the head as it is, so what {' and '.join(others)} would teach it or hold on to "
            "means nothing; use one of them, or a penalty on weights (si, l2)"
        )
    _held_back(names)
    bending = [name for name in names if METHODS[name].card.family == "gradient"]
    if len(bending) > 1:
        raise ValueError(
            f"{' and '.join(bending)} each project the gradient, and what the last one does breaks what the others "
            "guarantee; choose one"
        )
    _scaled(names, bending)
    prompted(names)
    weighed(names)
    adjusted(names)
    sided(names)
    at_test_time(names)
    fresh = [name for name in names if METHODS[name] is PNN]
    if fresh and (others := [name for name in names if METHODS[name] not in (PNN, GrowHead, Naive)]):
        raise ValueError(
            f"{fresh[0]} gives each task a net of its own, none of which ever changes again, so there is nothing for "
            f"{', '.join(others)} to hold or repeat; use {fresh[0]} alone"
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


def _held_back(names: Sequence[str]) -> None:
    """Raises a ValueError if one method would learn what another has to hold back."""
    holding = [name for name in names if issubclass(METHODS[name], BiC)]
    if holding and (others := [n for n in names if METHODS[n].card.family == "replay" and n not in holding]):
        raise ValueError(
            f"{holding[0]} holds rows back that nobody may learn, but {' and '.join(others)} would learn them, too; it "
            f"replays by itself: use {holding[0]} without {' and '.join(others)}"
        )


def _scaled(names: Sequence[str], bending: Sequence[str]) -> None:
    """Raises a ValueError where what a method scales or leaves out of a step is what another has made sure of."""
    scaling = [name for name in names if METHODS[name] in (AutoRGN, Thaw)]
    if scaling and bending:
        raise ValueError(
            f"{bending[0]} projects the gradient as a whole, and {scaling[0]} lets only a part of it through, "
            f"for which {bending[0]} guarantees nothing; use one of them"
        )
