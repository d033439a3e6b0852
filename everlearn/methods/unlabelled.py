"""Which methods for rows without labels can work in one chain, and with which others."""

from collections.abc import Sequence

from everlearn.methods import ADDA, DELTA, METHODS, SAR, FeatDistill, GrowHead
from everlearn.methods.aligned import Aligned
from everlearn.methods.testtime import AtTestTime


def sided(names: Sequence[str]) -> None:
    """Raises a ValueError unless each method that aligns sees the rows of both sides pass through the model."""
    aligning = [name for name in names if issubclass(METHODS[name], Aligned)]
    behind = names[names.index(aligning[0]) + 1 :] if aligning else ()
    if late := [name for name in behind if METHODS[name].card.family == "replay"]:
        raise ValueError(
            f"{aligning[0]} would see the batch before {late[0]} has joined old rows to it, which are its source where "
            f"there is no reference; put {late[0]} first: {late[0]}+{aligning[0]}"
        )
    apart = [name for name in aligning if issubclass(METHODS[name], ADDA)]
    if apart and (others := [name for name in aligning if name not in apart]):
        raise ValueError(
            f"{apart[0]} asks another encoder about the source, so {', '.join(others)} would see the target alone; use "
            f"one of them"
        )
    comparing = [name for name in names if METHODS[name] in (DELTA, FeatDistill)]
    if apart and comparing:
        raise ValueError(
            f"{comparing[0]} compares features of all rows, but with {apart[0]} the source does not pass through the "
            f"model that learns; hold its weights instead: l2sp+{apart[0]}"
        )


def at_test_time(names: Sequence[str]) -> None:
    """Refuses what does not go with adaptation at test time."""
    for first in [name for name in names if issubclass(METHODS[name], AtTestTime)]:
        others = [name for name in names if name != first and METHODS[name] is not GrowHead]
        if moving := [n for n in others if METHODS[n].card.family not in ("regularisation", "distillation", "replay")]:
            raise ValueError(
                f"{first} says what rows without labels move, and by what, and {', '.join(moving)} would say it again; "
                f"use {first} alone, or behind methods that replay or add to the loss (er, ewc, l2, lwf ...)"
            )
        if METHODS[first] is SAR and (hold := [name for name in others if METHODS[name].card.family == "distillation"]):
            raise ValueError(
                f"{first} learns beside the weights, so the answers that {hold[0]} would hold are not those that it "
                f"learns from; use tent or eata with {hold[0]}, or ewc+{first}"
            )
        if names[-1] != first:
            raise ValueError(f"{first} asks the model itself, so it comes last: {'+'.join([*others, first])}")
