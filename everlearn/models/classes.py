"""Classes by name: which output stands for which class, and never for another one."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import torch
from torch import Tensor


class Classes:
    """An append-only map from the names of classes to the outputs of a head.

    A class gets the next position when it is first seen and keeps it: nothing is sorted, moved or removed, so
    the meaning of an output never changes under the weights that were trained for it.

    >>> classes = Classes(["dog", "cat"])
    >>> classes.add(["ant", "cat"])
    tensor([2, 1])
    >>> classes.names
    ('dog', 'cat', 'ant')
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._positions: dict[str, int] = {}
        self.add(names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of their positions."""
        return tuple(self._positions)

    def add(self, names: Iterable[str]) -> Tensor:
        """The positions of `names` (int64), after those that are new have been appended in the order given.

        A name that is given twice is a ValueError, one that is no string a TypeError; nothing is added then.
        """
        for name in (wanted := _distinct(names)):
            self._positions.setdefault(name, len(self._positions))
        return self.index(wanted)

    def index(self, names: Iterable[str]) -> Tensor:
        """The positions of `names` (int64), which may repeat: one for each row, say.

        Unknown names are a ValueError.
        """
        wanted = _strings(names)
        try:
            return torch.tensor([self._positions[name] for name in wanted], dtype=torch.int64)
        except KeyError:
            unknown = [name for name in dict.fromkeys(wanted) if name not in self._positions]
            raise ValueError(self._unknown(unknown)) from None

    def table(self, names: Iterable[str]) -> Tensor:
        """The positions of one data set's classes (int64) by its own labels, so `table[y]` is for the head.

        `names` are the data set's classes in the order of its labels: label i means `names[i]`. Rows without
        a label (`UNLABELED`) are not in the table: take them out before indexing.

        >>> Classes(["dog", "cat", "ant"]).table(["ant", "dog"])[torch.tensor([0, 0, 1])]
        tensor([2, 2, 0])
        """
        return self.index(_distinct(names))

    def state_dict(self) -> dict[str, list[str]]:
        """The names in the order of their positions."""
        return {"names": list(self._positions)}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        """Becomes the map that `state_dict` saved, whatever it was before."""
        self._positions = {name: position for position, name in enumerate(_distinct(state["names"]))}

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __repr__(self) -> str:
        return f"Classes({list(self._positions)})"

    def _unknown(self, unknown: list[str]) -> str:
        shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        nearest = get_close_matches(unknown[0], self._positions, n=1, cutoff=0.0)
        known = f"the nearest of the {len(self)} known is {nearest[0]!r}" if nearest else "no class is known yet"
        return f"unknown classes: {shown}; {known}. To make room for new ones, call add() and grow the head"


def _strings(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"expected several class names, but got the one string {names!r}; write [{names!r}]")
    strings = list(names)
    for name in strings:
        if not isinstance(name, str):
            raise TypeError(f"a class name must be a string, but {name!r} is a {type(name).__name__}; use str()")
    return strings


def _distinct(names: Iterable[str]) -> list[str]:
    strings = _strings(names)
    if len(set(strings)) < len(strings):
        twice = next(name for position, name in enumerate(strings) if name in strings[:position])
        raise ValueError(f"class names must differ, but {twice!r} comes twice: one name would mean two classes")
    return strings
