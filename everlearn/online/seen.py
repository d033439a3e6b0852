"""Which ids came before: duplicates are dropped, within a window of so many ids."""

from array import array
from typing import Any

import torch

from everlearn.data.hashing import name_id


class Seen:
    """The last `window` different ids, as hashes of 63 bits.

    Within the window it is exact: an id that comes again is known, and one that is new is taken for a known one only
    if two hashes of 63 bits agree, which for a billion rows and a window of 100,000 has a chance of 1 in 90,000. An id
    that comes again after `window` others counts as new. A duplicate does not renew the place of its id.

    >>> seen = Seen(window=2)
    >>> [seen.admit(id) for id in "aabcca"]
    [True, False, True, True, False, True]
    """

    def __init__(self, window: int = 100_000) -> None:
        if window < 1:
            raise ValueError(f"the window must hold at least 1 id, but is {window}")
        self.window = window
        self._ring = array("q")
        self._oldest = 0
        self._known: set[int] = set()

    def __contains__(self, id: str) -> bool:  # noqa: A002 (what records call it)
        return name_id(id) in self._known

    def __len__(self) -> int:
        return len(self._ring)

    def admit(self, id: str) -> bool:  # noqa: A002
        """Whether the id is new; from now on it is known."""
        hashed = name_id(id)
        if hashed in self._known:
            return False
        self._known.add(hashed)
        if len(self._ring) < self.window:
            self._ring.append(hashed)
        else:
            self._known.remove(self._ring[self._oldest])
            self._ring[self._oldest] = hashed
            self._oldest = (self._oldest + 1) % self.window
        return True

    def state_dict(self) -> dict[str, Any]:
        """The hashes, the oldest first: one tensor of int64."""
        ring = torch.tensor(self._ring, dtype=torch.int64)
        return {"ids": ring.roll(-self._oldest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved; of a larger window, its newest ids."""
        ids = state["ids"][-self.window :].tolist()
        self._ring, self._oldest, self._known = array("q", ids), 0, set(ids)
