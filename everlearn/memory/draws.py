"""Which slots of a memory are sampled: different ones, in random order, each choice equally likely."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_AHEAD = 16
"""Draws that are made at once, while they are alike: numpy takes little longer over sixteen than over one."""


class Draws:
    """Draws `count` of `among` slots again and again, from a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._asked = (0, 0)
        self._start = self._random.get_state()  # of the generator, when those ahead were drawn
        self._ahead: tuple[Tensor, ...] = ()
        self._next = 0

    def draw(self, among: int, count: int, *, again: bool) -> Tensor:
        """`count` different numbers below `among`, (count,) int64; `again`: the next draw is likely to be alike."""
        if among <= 16 * count:  # so few that most would be drawn twice, or to be looked through
            return torch.randperm(among, generator=self._random)[:count]
        if not again:
            return self._different(among, count, 1)[0]
        if self._asked != (among, count) or self._next == _AHEAD:
            self._prepare(among, count)
        self._next += 1
        return self._ahead[self._next - 1]

    def _prepare(self, among: int, count: int) -> None:
        self._asked, self._next, self._start = (among, count), 0, self._random.get_state()
        self._ahead = self._different(among, count, _AHEAD).unbind()

    def _different(self, among: int, count: int, draws: int) -> Tensor:
        """(draws, count): those that come twice in a draw are drawn again, until none does.

        Of equal ones the first stays, whatever their value, so no value is preferred: all outcomes are equally likely.
        """
        drawn = torch.randint(among, (draws, count), generator=self._random)
        slots = drawn.numpy()
        while True:
            ordered = np.sort(slots, 1)
            rows = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero()[0]
            if not len(rows):
                return drawn
            order = slots[rows].argsort(1, kind="stable")
            ordered = ordered[rows]
            twice = (ordered[:, 1:] == ordered[:, :-1]).nonzero()
            places = rows[twice[0]], order[twice[0], twice[1] + 1]
            slots[places] = torch.randint(among, places[0].shape, generator=self._random).numpy()

    def state_dict(self) -> dict[str, Any]:
        """All that decides about later draws; those ahead are drawn again from where the generator was."""
        among, count = self._asked
        return {
            "random": self._random.get_state(),
            "start": self._start,
            "among": among,
            "count": count,
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self._asked = (0, 0)
        if state["count"]:
            self._random.set_state(state["start"])
            self._prepare(state["among"], state["count"])
            self._next = state["next"]
        self._random.set_state(state["random"])
