"""MNIST-360: a stream without borders, two digits at a time, which turn as it goes on and come back.

Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020. arXiv:2004.07211
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from everlearn.batch import Batch, Rows, tensor
from everlearn.data.rows import Columns
from everlearn.randomness import mix
from everlearn.streams.rotated import turned

DIGITS = 9
"""A 9 is left out: upside down it is a 6."""
ROUNDS = 3


def mnist_360(train: Rows, test: Rows, *, batch_size: int, seed: int = 0) -> tuple[Iterator[Batch], Rows]:
    """The batches of the stream, columns x and y, and the test rows: all digits but 9, evenly turned all the way.

    The pairs (0, 1), (1, 2), ... (8, 0) come three times. Each digit j has six parts, one for each time that it comes.
    A row is drawn at random from its part, with replacement, and turned by an angle that begins at 60 (j - 1) degrees
    and grows by 360 / n_j with each of the n_j draws; so the digits of a pair are turned differently. A batch has of
    each digit what keeps the rest of both parts in proportion; when one part is used up the next pair comes.
    """
    places = [(torch.as_tensor(train.column("y")) == digit).nonzero().flatten() for digit in range(DIGITS)]
    return _batches(train, places, batch_size, seed), _test(test, seed)


def _batches(train: Rows, places: list[Tensor], size: int, seed: int) -> Iterator[Batch]:
    random = torch.Generator().manual_seed(mix(seed, 0))
    parts = [list(torch.split(mine, len(mine) // (2 * ROUNDS) + 1)) for mine in places]
    drawn = [0] * DIGITS
    for pair in ROUNDS * list(pairwise([*range(DIGITS), 0])):
        part = [parts[digit].pop() for digit in pair]
        counts = list(_counts(len(part[0]), len(part[1]), size))
        which = torch.tensor([0, 1] * len(counts)).repeat_interleave(torch.tensor(counts).flatten())
        index, degrees = torch.empty_like(which), torch.empty(len(which), dtype=torch.float64)
        for place, (digit, rows) in enumerate(zip(pair, part, strict=True)):
            mine = which == place
            turns = drawn[digit] + torch.arange(int(mine.sum()), dtype=torch.float64)
            index[mine] = rows[torch.randint(len(rows), turns.shape, generator=random)]
            degrees[mine] = 60.0 * (digit - 1) + turns * (360 / len(places[digit]))
            drawn[digit] += len(turns)
        batch = train.take(index)
        # All that a pair shows is turned at once: small batches would spend more time here than in a net.
        x, y = _turned(tensor(batch, "x"), degrees), tensor(batch, "y")
        sizes = [sum(count) for count in counts]
        for images, labels in zip(torch.split(x, sizes), torch.split(y, sizes), strict=True):
            yield {"x": images, "y": labels}


def _counts(first: int, second: int, size: int) -> Iterator[tuple[int, int]]:
    """Of each batch, how many rows have the one digit and how many the other."""
    while min(first, second) > 0:
        some = min(round(first / (first + second) * size), first)
        yield some, min(size - some, second)
        first, second = first - some, second - min(size - some, second)


def _test(test: Rows, seed: int) -> Rows:
    random = torch.Generator().manual_seed(mix(seed, 1))
    labels = torch.as_tensor(test.column("y"))
    parts = [(labels == digit).nonzero().flatten() for digit in range(DIGITS)]
    index = torch.cat([mine[torch.randperm(len(mine), generator=random)] for mine in parts])
    degrees = torch.cat([torch.arange(len(mine), dtype=torch.float64) * 360 / len(mine) for mine in parts])
    return Columns(x=_turned(tensor(test.take(index), "x"), degrees), y=labels[index])


def _turned(images: Tensor, degrees: Tensor) -> Tensor:
    flat = images.flatten(-2)
    where = turned(images.shape[-2], images.shape[-1], degrees)[:, None].expand(flat.shape)
    return flat.gather(-1, where.clamp(min=0)).masked_fill_(where < 0, 0).view_as(images)
