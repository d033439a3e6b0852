"""Randomness: seeds made from places, and the global generators that foreign code draws from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """A seed of 63 bits from any integers: the same on every machine, in every process.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def unmoved(device: torch.device) -> Iterator[None]:
    """The global generators of torch (also on `device`), numpy and Python as they were, afterwards."""
    torch_, numpy_, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_)
        np.random.set_state(numpy_)  # noqa: NPY002
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


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
