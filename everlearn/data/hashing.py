"""Random numbers without a state: 64-bit hashes of int64 tensors, equal on every device."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_WRAP = 1 << 64


def _signed(number: int) -> int:
    """The 64 low bits of `number`, as the int64 of the same bits."""
    return (number + (_WRAP >> 1)) % _WRAP - (_WRAP >> 1)


def _shifted(bits: Tensor, by: int) -> Tensor:
    # int64 shifts copy the sign; a hash needs zeros there.
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(bits: Tensor) -> Tensor:
    """A bijection of int64 in which each bit of the input moves half of the bits of the output.

    The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014).

    >>> mix(torch.tensor([1, 2]))
    tensor([ 6238072747940578789, -2606959012126976886])
    """
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shifted(bits, 31)


def name_id(name: str) -> int:
    """A name as a stable number of 63 bits.

    >>> name_id("cat/1.png")
    8241404588537955974
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def row_ids(name: str, count: int) -> Tensor:
    """The ids of the first `count` rows of the file `name`: (count,) int64, none negative.

    They stay the same when rows are added at the end.

    >>> bool((row_ids("a.csv", 5)[:3] == row_ids("a.csv", 3)).all())
    True
    """
    return _shifted(mix(name_id(name) + torch.arange(1, count + 1) * _signed(_GOLDEN)), 1)


def bag_of_words(text: str, buckets: int) -> Tensor:
    """Which words and pairs of words are in a text, by hash, (buckets,) float32: a vector of length 1, or of 0 if none.

    >>> bag_of_words("Good, good book!", 8).count_nonzero()
    tensor(3)
    """
    found = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    tokens = {*found, *(f"{one} {two}" for one, two in pairwise(found))}
    row = torch.zeros(buckets)
    row[torch.tensor([name_id(token) % buckets for token in tokens], dtype=torch.int64)] = 1
    length: Tensor = row.norm().clamp(min=1)
    return row / length


@dataclass(frozen=True)
class Draws:
    """Random numbers for the rows of a batch: a pure function of a key, the row's id and the draw's number.

    `rows` is (n,) int64, one hash a row, from which SplitMix64 counts on. So a row draws the same numbers
    whatever else is in the batch, on any device, and no state has to be saved.
    """

    rows: Tensor
    first: int = 0

    @classmethod
    def of(cls, key: int, ids: Tensor) -> "Draws":
        """The draws under `key` (any integer) of the rows with these `ids`, (n,) int64."""
        return cls(mix(ids + _signed(2 * name_id(f"key {key}"))))

    def stream(self, number: int) -> "Draws":
        """Another sequence of draws for the same rows, for one of a few users of up to 1,024 draws each."""
        return Draws(self.rows, self.first + 1024 * number)

    def below(self, bound: int, number: int = 0) -> Tensor:
        """Draw `number` as integers in [0, bound), (n,) int64; `bound` is at most 2**31."""
        return (_shifted(self._bits(number), 32) * bound) >> 32

    def uniform(self, number: int = 0) -> Tensor:
        """Draw `number` as float32 in [0, 1), (n,): multiples of 2**-24, and so exact everywhere."""
        return _shifted(self._bits(number), 40).to(torch.float32) * 2.0**-24

    def _bits(self, number: int) -> Tensor:
        return mix(self.rows + _signed((self.first + number + 1) * _GOLDEN))
