"""A memory: a bounded, uniform sample of all rows ever seen."""

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import ANSWERS, UNLABELED, Batch, Column, check, length, pick, take, tensor
from everlearn.checkpoint import same
from everlearn.memory.bottomk import BottomK, Indices
from everlearn.memory.disk import Disk
from everlearn.memory.draws import Draws
from everlearn.memory.priority import Ids, stream
from everlearn.memory.store import Ram, Store, fits, row_bytes, widened, wider

_PREFIXES = (
    {"": 1} | {p: 1000**i for i, p in enumerate("KMGT", 1)} | {f"{p}I": 1024**i for i, p in enumerate("KMGT", 1)}
)


class Index(Protocol):
    """Which ids are kept, and in which of the slots 0 ... count - 1 each lies."""

    ROW_BYTES: int
    """What keeping one id costs."""
    capacity: int

    @property
    def count(self) -> int:
        """How many ids are kept."""
        ...

    def offer(self, ids: Ids, labels: Ids | None, *, new: bool = False) -> tuple[Indices, Indices]:
        """Decides about ids, (n,), of groups with these labels (None: all of one); `new`: they never came before.

        Returns the positions of those that enter and their slots, both ascending; what lay there before has left.
        """
        ...

    def find(self, ids: Ids) -> tuple[Indices, Indices]:
        """The positions in `ids`, (n,), of those that are kept, and their slots, which ascend; of repeats the last."""
        ...

    def regroup(self, slots: Indices, labels: Ids) -> None:
        """Moves the ids in these slots to the groups with these labels, (n,) each; they keep their slots."""
        ...

    def forget(self, ids: Ids) -> tuple[int, Indices, Indices]:
        """Removes ids for good: how many were kept, and from which slots rows have to move to which."""
        ...

    @property
    def ids(self) -> Ids:
        """The kept ids in the order of their slots, (count,)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that decides about the future, as tensors and numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Takes over what `state_dict` gave."""
        ...


class Memory:
    """Keeps a uniform sample, without replacement, of the distinct rows ever added.

    `capacity` is a number of rows, or of bytes ("64MB", "2GiB"): then the first batch, which shows how large
    a row is, decides how many fit, bookkeeping included. `seed` decides which rows are kept, and what
    `sample` draws. Rows lie on the device of the first batch, or with `folder` on disk, in files that states
    refer to.

    A row is known by the column "id", (n,) integers, or else by its place in the order of arrival, from 0.
    The rows kept are those whose ids have the smallest hashes. So what is kept is a function of the set of
    ids seen, and not of their order, of the size of batches, or of how many epochs brought them again; what
    comes under an id that is kept already is passed over, unless it has another label: then the row was
    corrected, and takes the place of what it was. Keeping draws no random numbers; `sample` has its own
    generator.

    The first batch fixes the columns. Tensors keep their dtype and shape; lists, in RAM, hold anything. One
    thing may change: vectors of floats, such as the logits of a head that grows, may become longer (or
    shorter); what a row lacks is then NaN.

    A memory is `Rows`: it can be learned from like any data set.

    >>> memory = Memory(2)
    >>> memory.add({"x": torch.arange(100, dtype=torch.uint8), "id": torch.arange(100)})
    >>> len(memory), memory.seen, memory.rows()["x"].dtype
    (2, 100, torch.uint8)
    """

    def __init__(self, capacity: int | str, seed: int = 0, *, folder: str | Path | None = None) -> None:
        self._bytes = _bytes(capacity)
        self.capacity = capacity
        self.seed = seed
        self.folder = None if folder is None else Path(folder)
        self.seen = 0
        """The rows ever offered, those that came again included."""
        self._kept = self.index()
        self._store: Store | None = None
        self._draws = Draws(int(stream(seed)) >> 1)

    def groups(self, batch: Batch) -> Tensor | None:  # noqa: ARG002 (for those who need it)
        """The group of each row, (n,) integers; groups share a full memory evenly. None: there is only one.

        This is the one decision that a subclass changes, unless it keeps something other than a uniform sample.
        """
        return None

    def index(self) -> Index:
        """What decides, by id and group, which rows are kept; a new one, that knows of none."""
        return BottomK(self.seed)

    @torch.no_grad()
    def add(self, batch: Batch, *, renew: bool = False) -> None:
        """Offers the rows of a batch.

        What comes again under an id that is kept is passed over if its label is the same, or with `renew` stored
        in place of what was there: the same row, with what a method notes about it now. Of rows with one id in
        a batch the last counts.

        Raises a ValueError if its columns are not those of the first batch, or if the capacity is below one
        row: nothing has changed then. After the OSError of a full disk, load the last state.
        """
        check(batch)
        if not length(batch):
            return
        if self._store is not None:
            fits(batch, self._store.template)
        ids, groups = self._identify(batch), self.groups(batch)
        labels = None if groups is None else _integers("a group", groups)
        store = self._store or self._open(batch)
        self.seen += length(batch)
        if "id" in batch:
            if len(ids) > 1 and len(set(ids.tolist())) < len(ids):
                last = np.sort(len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1])
                batch, ids = take(batch, torch.from_numpy(last)), ids[last]
                labels = None if labels is None else labels[last]
            self._again(store, batch, ids, labels, renew=renew)
        chosen, slots = self._kept.offer(ids, labels, new="id" not in batch)
        if len(chosen):
            rows = batch if len(chosen) == length(batch) else take(batch, torch.from_numpy(chosen))
            store.write(torch.from_numpy(slots), rows)

    def note(self, rows: Batch, logits: Tensor) -> None:
        """Told what a model answers about `rows`, new ones or drawn ones: a uniform sample does not listen."""

    def widen(self, name: str, width: int) -> None:
        """Makes the vectors of floats in a column as long as those that will come: what a row lacks is NaN."""
        if self._store is not None:
            column = tensor(self._store.template, name)
            if wider(like := column.new_empty(0, width), column):
                self._store.widen(name, like)

    def narrow(self, name: str, width: int) -> None:
        """Takes back what `widen` did: the vectors in a column are cut to `width`. In RAM only."""
        if self._store is None or tensor(self._store.template, name).shape[1] <= width:
            return
        if self.folder is not None:
            raise ValueError(f"the rows of this memory lie in {self.folder}, and what lies on disk is never rewritten")
        columns = self._store.gather(torch.arange(len(self)))
        columns[name] = tensor(columns, name)[:, :width].contiguous()
        self._store = Ram.restore(self._kept.capacity, {"columns": columns})

    def sample(self, count: int) -> Batch:
        """`count` different rows, or all if there are fewer, in random order: each choice is equally likely.

        They are copies, and lie where the memory does. An empty memory gives {}.
        """
        if count < 0:
            raise ValueError(f"count must be at least 0, but is {count}")
        among, store = self._kept.count, self._store
        if store is None or not among or not count:
            return {}
        return store.gather(self._draws.draw(among, min(count, among), again=among == self._kept.capacity))

    def rows(self) -> Batch:
        """A copy of all rows, in the order of their slots; {} if there are none."""
        return self.take(torch.arange(len(self))) if len(self) else {}

    def forget(self, ids: Tensor) -> int:
        """Removes the rows with these ids, (n,) integers, and turns them away should they come again.

        Returns how many there were. Their places stay empty until rows come that belong among those kept: to
        let in just any row would favour the late ones. In RAM the bytes are gone at once; on disk the next
        state no longer has them, and their file is deleted when no state of the last four refers to it.
        """
        gone, sources, targets = self._kept.forget(_integers("an id", ids))
        if self._store is not None:
            self._store.shrink(len(self), torch.from_numpy(sources), torch.from_numpy(targets))
        return gone

    def holds(self, ids: Tensor) -> Tensor:
        """Which of these ids, (n,) integers, are those of rows that are kept: (n,) bool."""
        asked = _integers("an id", ids)
        return torch.from_numpy(np.isin(asked, asked[self._kept.find(asked)[0]]))

    @property
    def ids(self) -> Tensor:
        """The ids of the rows, in the order of their slots, (n,) int64."""
        return torch.from_numpy(self._kept.ids)

    @property
    def resident(self) -> bool:
        """True: taking rows is one gather."""
        return True

    def __len__(self) -> int:
        return self._kept.count

    def take(self, index: Tensor, /) -> Batch:
        """A copy of the rows in the slots `index`, (n,) int64, from 0 to the length of the memory."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"slots go from 0 to {len(self) - 1}, but index has {index.min()} to {index.max()}")
        return self._filled().gather(index.cpu())

    def column(self, name: str, /) -> Column:
        """A copy of one column, in the order of the slots."""
        return self._filled().gather(torch.arange(len(self)), name)[name]

    def state_dict(self) -> dict[str, Any]:
        """All that the memory has become, in plain values: whoever loads it goes on like it, bit for bit.

        With `folder` the rows are not part of it: they are made durable, and the state refers to their files,
        which are kept for the last four states taken.
        """
        return {
            **self._settings(),
            "seen": self.seen,
            "draws": self._draws.state_dict(),
            "kept": self._kept.state_dict(),
            "store": None if self._store is None else self._store.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` described; rows lie on the device where the tensors of the state lie.

        Raises a ValueError if that memory had another class, capacity, seed or kind of store. With `folder`,
        the files are read once: if one is missing that is a FileNotFoundError, if one is cut or changed a
        ValueError.
        """
        for name, ours in self._settings().items():
            if state[name] != ours:
                raise ValueError(
                    f"the state is of a memory with {name} {state[name]!r}, but this one has {ours!r}; "
                    "load it into one that is made alike"
                )
        kept, store = self.index(), state["store"]
        kept.load_state_dict(state["kept"])
        if store is None:
            self._store = None
        elif self.folder is None:
            self._store = Ram.restore(kept.capacity, store)
        else:
            self._store = Disk(self.folder, kept.capacity, store)
        self._kept = kept
        self.seen = state["seen"]
        self._draws.load_state_dict(state["draws"])

    def _settings(self) -> dict[str, Any]:
        return {
            "class": type(self).__name__,
            "capacity": self.capacity,
            "seed": self.seed,
            "rows": "in RAM" if self.folder is None else "on disk",
        }

    def _again(self, store: Store, batch: Batch, ids: Ids, labels: Ids | None, *, renew: bool) -> None:
        """Stores what is kept already and was corrected since, or with `renew` all that is kept already."""
        again, places = self._kept.find(ids)
        if not len(again):
            return
        slots, which = torch.from_numpy(places), torch.from_numpy(again)
        corrected = torch.zeros(0, dtype=torch.bool)
        for name in ANSWERS:
            if name in batch:
                now, then = pick(batch[name], which), store.gather(slots, name)[name]
                if not (isinstance(now, Tensor) and isinstance(then, Tensor) and _equal(now, then)):  # hardly ever
                    other = _other(now, then)
                    corrected = other | corrected if len(corrected) else other
        some = bool(corrected.any())
        if some and labels is not None:
            self._kept.regroup(places[corrected.numpy()], labels[again][corrected.numpy()])
        if renew:
            store.write(slots, take(batch, which))
        elif some:
            store.write(slots[corrected], take(batch, which[corrected]))

    def _identify(self, batch: Batch) -> Ids:
        if "id" in batch:
            return _integers("an id", tensor(batch, "id"))
        return np.arange(self.seen, self.seen + length(batch))

    def _open(self, batch: Batch) -> Store:
        """The store for rows like those in the batch."""
        rows = self.capacity if isinstance(self.capacity, int) else self._fitting(batch)
        if rows > BottomK.LARGEST:
            raise ValueError(f"the largest capacity is {BottomK.LARGEST} rows, but {self.capacity!r} asks for {rows}")
        if self.folder is None:
            self._store = Ram(rows, batch)
        else:
            self._store = Disk(self.folder, rows, Disk.unused(self.folder, batch))
        self._kept.capacity = rows
        return self._store

    def _fitting(self, batch: Batch) -> int:
        """How many such rows the bytes of the capacity can hold."""
        if ragged := [name for name, column in batch.items() if isinstance(column, list)]:
            raise ValueError(
                f"the lists in {ragged} have no fixed size, so {self.capacity!r} is no number of rows; "
                "give the capacity in rows"
            )
        each = row_bytes(batch) + self._kept.ROW_BYTES
        if self._bytes < each:
            raise ValueError(
                f"a capacity of {self.capacity!r} is {self._bytes} bytes, but a row of {sorted(batch)} "
                f"takes {each} ({self._kept.ROW_BYTES} of them for bookkeeping); give at least that"
            )
        return self._bytes // each

    def _filled(self) -> Store:
        if self._store is None:
            raise IndexError("the memory is empty: it has no rows and no columns yet")
        return self._store


def _equal(labels: Tensor, kept: Tensor) -> bool:
    return labels.device == kept.device and torch.equal(labels, kept)


def _other(labels: Column, kept: Column) -> Tensor:
    """Which of the labels, (n,) bool, are others than those that are kept; no label is no other one."""
    if not isinstance(labels, Tensor) or not isinstance(kept, Tensor):
        return torch.tensor([not same(now, then) for now, then in zip(labels, kept, strict=True)])
    now, then = widened(labels, kept).cpu(), widened(kept, labels).cpu()
    other = (now != then) & ~(now.isnan() & then.isnan())
    if labels.dtype == torch.int64 and labels.dim() == 1:
        other &= now != UNLABELED
    return other.view(len(other), -1).any(1)


def _bytes(capacity: int | str) -> int:
    """The bytes that a capacity names, or 0 if it counts rows.

    >>> _bytes("64MB"), _bytes("1.5 KiB"), _bytes(500)
    (64000000, 1536, 0)
    """
    if isinstance(capacity, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]I?)?B", capacity.strip().upper())
        if match is None:
            raise ValueError(f"a capacity in bytes reads like '500kB', '64MB' or '2GiB', but this one is {capacity!r}")
        return int(float(match[1]) * _PREFIXES[match[2] or ""])
    if not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"a capacity is a whole number of rows, or bytes such as '64MB', but not {capacity!r}")
    return 0


def _integers(what: str, column: Tensor) -> Ids:
    if column.dim() != 1 or column.is_floating_point() or column.is_complex():
        raise TypeError(
            f"{what} is one whole number per row, but here they are {column.dtype} of shape {tuple(column.shape)}"
        )
    values: Ids = column.to("cpu", torch.int64).numpy()
    return values
