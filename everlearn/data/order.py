"""The order of an epoch: a pure function of (seed, experience, epoch), so a position is all a checkpoint keeps."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from everlearn.batch import Batch, Rows
from everlearn.randomness import mix, seeded


def epoch_order(count: int, seed: int, experience: int, epoch: int) -> Tensor:
    """A permutation of `count` positions, int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, experience, epoch)))


def batches(
    rows: Rows,
    order: Tensor,
    size: int,
    *,
    skip: int = 0,
    workers: int = 0,
    seed: int = 0,
    first_id: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """`rows` in `order`, `size` at a time (the last batch may be smaller); `skip` passes over the first batches.

    Resident rows are gathered at once. Others are loaded by a DataLoader, a whole batch for each call, in
    `workers` processes. Random augmentation inside a foreign data set draws from generators that are seeded
    by (`seed`, place of the batch), so it is the same with any number of workers and after any resume.

    Rows without a column "id" get one: `first_id` plus their position. `share` = (k, n) gives the k-th of n
    parts of each batch, for n processes that learn together.
    """
    chunks, ids = (_chunks(every, size, share)[skip:] for every in (order, order + first_id))
    if rows.resident:
        for chunk, names in zip(chunks, ids, strict=True):
            yield _identified(rows.take(chunk), names)
        return
    loader: DataLoader[Batch] = DataLoader(
        _Chunks(rows, chunks, skip, seed),
        batch_size=None,
        num_workers=workers,
        # Without one of its own, a DataLoader draws from the global generator at each start: no resume is exact.
        generator=torch.Generator().manual_seed(seed),
    )
    for batch, names in zip(loader, ids, strict=True):
        yield _identified(batch, names)


def endless(
    rows: Rows,
    size: int,
    skip: int,
    *,
    seed: int,
    experience: int,
    workers: int = 0,
    first_id: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches of `size` rows (or of all, if there are fewer) without end: pass after pass, each in another order.

    The order of a pass is a function of (`seed`, `experience`, its number); what does not fill a batch waits for the
    next pass. `skip` and the others are as in `batches`.
    """
    size = min(size, len(rows))
    turn, skip = divmod(skip, len(rows) // size)
    while True:
        order = epoch_order(len(rows), seed, experience, turn)[: len(rows) // size * size]
        yield from batches(
            rows,
            order,
            size,
            skip=skip,
            workers=workers,
            seed=mix(seed, experience, turn),
            first_id=first_id,
            share=share,
        )
        turn, skip = turn + 1, 0


def _chunks(every: Tensor, size: int, share: tuple[int, int]) -> tuple[Tensor, ...]:
    chunks = torch.split(every, size) if len(every) else ()
    rank, world = share
    return tuple(chunk.tensor_split(world)[rank] for chunk in chunks) if world > 1 else chunks


def _identified(batch: Batch, ids: Tensor) -> Batch:
    return batch if "id" in batch else {**batch, "id": ids}


class _Chunks(Dataset[Batch]):
    """A data set whose items are batches."""

    def __init__(self, rows: Rows, chunks: Sequence[Tensor], first: int, seed: int) -> None:
        self.rows, self.chunks, self.first, self.seed = rows, chunks, first, seed

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, place: int) -> Batch:
        with seeded(mix(self.seed, self.first + place)):
            return self.rows.take(self.chunks[place])
