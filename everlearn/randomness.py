"""Randomness: seeds made from places, and the global generators that foreign code draws from."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_char
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.random import MT19937, RandomState


def mix(*numbers: int) -> int:
    """A seed of 63 bits from any integers: the same on every machine, in every process.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


class Watched:
    """A global generator whose state is copied only when its memory is no longer what it was at the last copy.

    Copies of 625 words in the forms of numpy and Python take 150 and 20 microseconds, more than a small model takes
    to answer; to compare their memory takes one.
    """

    def __init__(self, memory: Callable[[], Any], get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        """`memory` gives all that the state is a function of, or None where that cannot be known."""
        self._memory, self._get, self._put = memory, get, put
        self._copied: Any = None
        self._copy: Any = None

    def saved(self) -> tuple[Any, Any]:
        """Its memory and its state, for `restore`."""
        memory = self._memory()
        if memory is None or memory != self._copied:
            self._copied, self._copy = memory, self._get()
        return memory, self._copy

    def restore(self, saved: tuple[Any, Any]) -> None:
        """Makes it what it was."""
        memory, state = saved
        if memory is None or memory != self._memory():
            self._put(state)


def _inside(thing: object, most: int) -> Any:
    """What an object of C holds behind its header, `most` bytes of it, whenever the `raw` of this is read."""
    head = object.__basicsize__
    return (c_char * min(most, type(thing).__basicsize__ - head)).from_address(id(thing) + head)


# A draw moves the place among the 624 words, or, where it comes round to the same place, makes all of them anew.
def _memory_of_python(source: random.Random) -> Callable[[], Any]:
    """The place and the first 16 words, and the second of a pair of normal numbers."""
    words = _inside(source, 68)
    return lambda: (words.raw, source.gauss_next)  # type: ignore[attr-defined]


def _memory_of_numpy(source: RandomState, generator: Callable[[], Any]) -> Callable[[], Any]:
    """The same, where numpy says that its generator has them; the pending number is in `source` itself."""
    first = generator()
    words = (c_char * 64).from_address(first.ctypes.state_address)
    place = (c_char * 4).from_address(first.ctypes.state_address + 624 * 4)
    pending = _inside(source, 1 << 12)
    # None: somebody has given it another generator.
    return lambda: (place.raw, words.raw, pending.raw) if generator() is first else None


def _known() -> bool:
    """Whether the memory shows all that these generators can do: seen on others of their kind."""
    python, numpy_ = random.Random(0), RandomState(0)  # noqa: S311 (they guard no secret)
    generator = numpy_._bit_generator  # noqa: SLF001
    if sys.implementation.name != "cpython" or not isinstance(generator, MT19937):
        return False
    first, second = _memory_of_python(python), _memory_of_numpy(numpy_, lambda: generator)
    seen = [(first(), second())]
    for _ in range(3):  # the second number of a pair moves no word
        python.gauss(0, 1), numpy_.randn()
        seen.append((first(), second()))
    return all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(seen))


def _numpy_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002


def _watched() -> tuple[Watched, Watched]:
    """The global generators of numpy and Python."""
    shared: Any = np.random  # its stubs leave out what it has
    numpy_, python = shared.get_state.__self__, random.getstate.__self__  # type: ignore[attr-defined]
    known = _known() and type(shared.get_bit_generator()) is MT19937
    return (
        Watched(
            _memory_of_numpy(numpy_, shared.get_bit_generator) if known else lambda: None,
            _numpy_state,
            shared.set_state,
        ),
        Watched(_memory_of_python(python) if known else lambda: None, random.getstate, random.setstate),
    )


_NUMPY, _PYTHON = _watched()


class unmoved:  # noqa: N801 (used as a function)
    """The global generators of torch (also on `device`), numpy and Python as they were, afterwards."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def __enter__(self) -> None:
        self._saved = torch.default_generator.get_state(), _NUMPY.saved(), _PYTHON.saved()
        self._saved_cuda = torch.cuda.get_rng_state_all() if self._cuda else []

    def __exit__(self, *_: object) -> None:
        torch_, numpy_, python = self._saved
        torch.default_generator.set_state(torch_)
        _NUMPY.restore(numpy_)
        _PYTHON.restore(python)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._saved_cuda)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global CPU generators at `seed`, for foreign code that draws from them; as they were afterwards."""
    with unmoved(torch.device("cpu")):
        seed_globals(seed)
        yield


def seed_globals(seed: int) -> None:
    """The global generators of torch (on the CPU), numpy and Python at `seed`: for a program that owns its process."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def global_state(device: torch.device) -> dict[str, Any]:
    """The states of the global generators of torch (also on `device`), numpy and Python, as a checkpoint wants them."""
    numpy_ = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy_, dict)  # noqa: S101 (what legacy=False gives)
    version, words, pending = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {
            **numpy_,
            "state": {"key": torch.from_numpy(numpy_["state"]["key"].astype(np.int64)), "pos": numpy_["state"]["pos"]},
        },
        "python": [version, torch.tensor(words), pending],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global_state(state: dict[str, Any]) -> None:
    """Sets the global generators to what `global_state` gave."""
    torch.set_rng_state(state["torch"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})  # noqa: NPY002
    version, words, pending = state["python"]
    random.setstate((version, tuple(words.tolist()), pending))
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
