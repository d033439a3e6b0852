"""A memory that lets go of what the model knows well, and of what it has much of."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, length, tensor
from everlearn.memory.balanced import Balanced
from everlearn.memory.bottomk import BottomK, Indices
from everlearn.memory.priority import Ids, priorities, stream
from everlearn.memory.slots import find, moves
from everlearn.randomness import mix


class LossAware(Balanced):
    """As many rows of a batch enter as a uniform sample of all rows would have of it; for each, a row leaves by chance.

    Row i leaves with a probability proportional to S_i - min S: S_i = n_i - l_i / (mean l * mean n), with n_i the rows
    of its class, those that enter included, and l_i its loss when the model last learned it. So the largest class
    loses most, and of a class the rows that are known best: those of high loss stay. Those who leave for the rows of
    one batch are drawn at once, without replacement. The class is the column "y". Buzzega et al., Rethinking Experience
    Replay: a Bag of Tricks for Continual Learning, ICPR 2020, arXiv:2010.05595, with S as in the authors' code.

    Losses come by `note`, from a method that learns kept rows again; a row of unknown loss counts as one of mean loss.
    A row that has left does not come back when it comes again. What is kept depends on the order of arrival.

    >>> memory = LossAware(2)
    >>> for number in range(100):
    ...     batch = {"y": torch.tensor([0]), "id": torch.tensor([number])}
    ...     memory.add(batch)
    ...     memory.note(batch, torch.tensor([[0.0, 9.0]] if number == 0 else [[9.0, 0.0]]))
    >>> memory.ids[0]
    tensor(0)
    """

    _kept: "Hardest"

    def index(self) -> "Hardest":
        """Those that were admitted, and have not left yet."""
        return Hardest(self.seed)

    @torch.no_grad()
    def note(self, rows: Batch, logits: Tensor) -> None:
        """Takes down the cross-entropy of those among `rows` that are kept; `logits` is (rows, classes)."""
        if "id" not in rows:
            raise ValueError("a loss is taken down by the id of its row, but these rows have no column 'id'; add one")
        y = tensor(rows, "y").to(logits.device)
        losses = F.cross_entropy(logits[: length(rows)].float(), y, ignore_index=UNLABELED, reduction="none")
        ids = tensor(rows, "id").to("cpu", torch.int64).numpy()
        self._kept.note(ids, losses.masked_fill(y == UNLABELED, torch.nan).cpu().numpy())


class Hardest:
    """Of the ids that a uniform sample would have let in, those that were not drawn to leave."""

    ROW_BYTES = BottomK.ROW_BYTES + 24

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # Vitter's reservoir admits the n-th distinct row with probability capacity / n, and so does a bottom-k sketch:
        # a row whose hash is among the smallest so far. It knows a row again, even if that has left in the meantime.
        self._entrance = BottomK(seed)
        self._kept = np.empty((2, 0), np.int64)  # of each slot the id and its group
        self._losses = np.empty(0, np.float64)  # of each slot; NaN: unknown
        self._exchanges = 0

    @property
    def capacity(self) -> int:
        """How many ids may be kept."""
        return self._entrance.capacity

    @capacity.setter
    def capacity(self, rows: int) -> None:
        self._entrance.capacity = rows

    @property
    def count(self) -> int:
        """How many ids are kept."""
        return len(self._losses)

    @property
    def ids(self) -> Ids:
        """The kept ids in the order of their slots, (count,) int64."""
        ids: Ids = self._kept[0].copy()
        return ids

    def offer(self, ids: Ids, labels: Ids | None, *, new: bool = False) -> tuple[Indices, Indices]:
        """Decides about ids, (n,) int64, whose groups have these labels, (n,) int64 (None: all are of one).

        Returns the positions in `ids` of those that enter, ascending, and their slots, ascending; what lay in those
        slots before has left.
        """
        rows, _ = self._entrance.offer(ids, None, new=new)
        if not rows.size:
            return rows, rows
        entering = np.stack([ids[rows], np.zeros(len(rows), np.int64) if labels is None else labels[rows]])
        surplus = max(0, self.count + len(rows) - self.capacity)
        freed = np.sort(self._leaving(surplus, entering[1])) if surplus else rows[:0]
        slots = np.concatenate([freed, np.arange(self.count, self.count + len(rows) - surplus)])
        if more := len(rows) - surplus:
            self._kept = np.pad(self._kept, ((0, 0), (0, more)))
            self._losses = np.pad(self._losses, (0, more))
        self._kept[:, slots], self._losses[slots] = entering, np.nan
        return rows, slots

    def chances(self, entering: Ids) -> NDArray[np.float64]:
        """The probability of each kept id, (count,), to be the first to leave when ids of these groups enter."""
        _, group, sizes = np.unique(np.concatenate([self._kept[1], entering]), return_inverse=True, return_counts=True)
        crowd = sizes[group.reshape(-1)[: self.count]].astype(np.float64)
        known = self._losses[~np.isnan(self._losses)]
        mean = known.mean() if known.size else 0.0
        score = crowd - np.nan_to_num(self._losses, nan=mean) / (mean * crowd.mean() if mean > 0 else 1.0)
        score -= score.min()
        chances: NDArray[np.float64] = score / score.sum() if score.any() else np.full(self.count, 1 / self.count)
        return chances

    def note(self, ids: Ids, losses: NDArray[np.floating[Any]]) -> None:
        """Takes down the losses, (n,), of those ids, (n,) int64, that are kept; NaN: unknown."""
        rows, slots = self.find(ids)
        self._losses[slots] = losses[rows]

    def find(self, ids: Ids) -> tuple[Indices, Indices]:
        """The positions in `ids`, (n,) int64, of those that are kept, and their slots; of repeated ids the last."""
        return find(self._kept[0], ids)

    def regroup(self, slots: Indices, labels: Ids) -> None:
        """Moves the ids in these slots to the groups with these labels, (n,) each; of their losses nothing is known."""
        self._kept[1, slots], self._losses[slots] = labels, np.nan

    def forget(self, ids: Ids) -> tuple[int, Indices, Indices]:
        """Removes ids, and turns them away for good.

        Returns how many were kept, and from which slots rows have to move to which, so that no slot stays empty.
        """
        self._entrance.forget(ids)
        gone = np.isin(self._kept[0], ids)
        sources, targets = moves(gone)
        left = int(gone.sum())
        count = self.count - left
        self._kept[:, targets], self._losses[targets] = self._kept[:, sources], self._losses[sources]
        self._kept, self._losses = self._kept[:, :count].copy(), self._losses[:count].copy()
        return left, sources, targets

    def state_dict(self) -> dict[str, Any]:
        """All that decides about the future, as tensors and numbers."""
        return {
            "entrance": self._entrance.state_dict(),
            "exchanges": self._exchanges,
            "kept": torch.from_numpy(self._kept.copy()),
            "losses": torch.from_numpy(self._losses.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self._entrance.load_state_dict(state["entrance"])
        self._exchanges = state["exchanges"]
        self._kept, self._losses = (state[name].cpu().numpy().copy() for name in ("kept", "losses"))

    def _leaving(self, count: int, entering: Ids) -> Indices:
        """The slots of `count` ids that leave, drawn one after the other by their chances, each at most once.

        They are the first of a race of exponential clocks with the chances as rates (Efraimidis and Spirakis, Weighted
        random sampling with a reservoir, 2006). The clocks are hashes: the draw is a function of seed and state.
        """
        self._exchanges += 1
        hashed = priorities(self._kept[0], stream(mix(self._seed, self._exchanges)))
        clocks = -np.log((hashed.astype(np.float64) + 0.5) / 2.0**64)
        chances = self.chances(entering)
        finish = np.divide(clocks, chances, out=np.full(self.count, np.inf), where=chances > 0)
        first: Indices = finish.argsort(kind="stable")[:count]
        return first
