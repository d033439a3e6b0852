"""Randomness has owners: seeds are functions of places, and global generators are as they were afterwards."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from everlearn import checkpoint
from everlearn.randomness import global_state, mix, restore_global_state, seeded, unmoved

CPU = torch.device("cpu")


def draw():
    return (torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), random.random())  # noqa: NPY002


def test_mix_is_the_same_in_every_process():
    program = "from everlearn.randomness import mix; print(mix(1, 2, 3), mix(-5))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{mix(1, 2, 3)} {mix(-5)}\n"


def test_mix_is_fixed_for_good():
    """Were it another function, no old run could be resumed or repeated."""
    assert mix(0, 0, 0) == 9169699564768075551
    assert mix(7, 1) == 2066063794625186403


def test_mix_tells_places_apart():
    seeds = {mix(*place) for place in [(i, j) for i in range(50) for j in range(50)] + [(1,), (1, 2, 3), (123,)]}
    assert len(seeds) == 2503
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_neighbouring_seeds_make_unrelated_streams():
    first, second = (torch.rand(2000, generator=torch.Generator().manual_seed(mix(0, k))) for k in (0, 1))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.1


@pytest.mark.parametrize("block", [lambda: unmoved(CPU), lambda: seeded(3)])
def test_what_is_drawn_inside_does_not_show_outside(block):
    draw()
    before = global_state(CPU)
    with block():
        draw()
    assert checkpoint.same(before, global_state(CPU))
    with pytest.raises(ZeroDivisionError), block():
        draw()[3] / 0
    assert checkpoint.same(before, global_state(CPU))


def test_seeded_gives_foreign_code_the_same_draws_each_time():
    with seeded(2**62 + 5):
        first = draw()
    draw()
    with seeded(2**62 + 5):
        assert draw() == first
    with seeded(6):
        assert draw() != first


def test_global_generators_go_on_from_a_saved_state(tmp_path):
    draw()
    checkpoint.save({"random": global_state(CPU)}, tmp_path / "c")
    expected = [draw() for _ in range(3)]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    restore_global_state(checkpoint.load(tmp_path / "c")["random"])
    assert [draw() for _ in range(3)] == expected


def test_half_of_a_pair_of_normal_numbers_is_saved_too(tmp_path):
    np.random.randn()  # noqa: NPY002 (numpy makes them in pairs and keeps the second)
    random.gauss(0, 1)
    checkpoint.save(global_state(CPU), tmp_path / "c")
    expected = (np.random.randn(), random.gauss(0, 1))  # noqa: NPY002
    np.random.randn()  # noqa: NPY002
    restore_global_state(checkpoint.load(tmp_path / "c"))
    assert (np.random.randn(), random.gauss(0, 1)) == expected  # noqa: NPY002


@pytest.mark.parametrize("pending", [0, 1])
def test_the_pending_half_of_a_pair_comes_back_however_little_was_drawn(pending):
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    for _ in range(pending):
        np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
    for _ in range(2):
        before = global_state(CPU)
        with unmoved(CPU):
            np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
        assert checkpoint.same(before, global_state(CPU))
        np.random.randn(), random.gauss(0, 1)  # noqa: NPY002


def test_as_many_draws_as_there_are_words_are_noticed():
    """The place among the words is the same again, but not the words."""
    np.random.seed(0), random.seed(0)  # noqa: NPY002
    np.random.bytes(4 * 624), random.getrandbits(32 * 624)  # noqa: NPY002
    before = global_state(CPU)
    with unmoved(CPU):
        np.random.bytes(4 * 624), random.getrandbits(32 * 624)  # noqa: NPY002
    assert checkpoint.same(before, global_state(CPU))


def test_a_generator_that_somebody_has_set_in_place_of_numpys_own_is_restored_too():
    own = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002
        with unmoved(CPU):
            np.random.rand()  # noqa: NPY002
        assert str(np.random.get_state(legacy=False)) == before  # noqa: NPY002
    finally:
        np.random.set_bit_generator(own)
