"""A ring keeps the last rows of each class, each once, whatever the size of batches."""

import random

import numpy as np
import pytest
import torch

from everlearn.checkpoint import load, same, save
from everlearn.memory import Memory, Ring
from everlearn.memory.bottomk import BottomK
from everlearn.memory.ring import Latest


class Whole(Ring):
    """The last rows of all."""

    def groups(self, batch):
        return None


def rows(ids, classes=5):
    ids = torch.as_tensor(ids)
    return {"x": ids.to(torch.float64), "y": ids % classes, "id": ids}


def last(arrivals, capacity, group_of=lambda _: 0):
    """The definition: each id by its last arrival, the newest of each group first."""
    newest = list(dict.fromkeys(reversed(arrivals)))
    ranks, keys = {}, {}
    for age, id_ in enumerate(newest):
        ranks[group_of(id_)] = ranks.get(group_of(id_), -1) + 1
        keys[id_] = (ranks[group_of(id_)], age)
    return set(sorted(keys, key=keys.get)[:capacity])


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_without_groups_the_last_rows_are_kept(size):
    memory = Whole(30)
    for ids in torch.arange(100).split(size):
        memory.add(rows(ids))
    assert sorted(memory.ids.tolist()) == list(range(70, 100))


def test_of_each_class_the_last_rows_are_kept():
    memory = Ring(20)
    memory.add(rows(range(200)))
    assert sorted(memory.ids.tolist()) == list(range(180, 200))
    memory = Ring(6)
    memory.add({"y": torch.tensor([0] * 50 + [1] * 50 + [2] * 50)})
    assert sorted(memory.ids.tolist()) == [48, 49, 98, 99, 148, 149]


def test_places_that_a_rare_class_cannot_fill_go_to_the_others_and_the_odd_ones_to_the_newest():
    memory = Ring(10)
    memory.add({"y": torch.tensor([0] * 20 + [1] * 2 + [2] * 20)})
    assert memory.column("y").bincount().tolist() == [4, 2, 4]
    memory = Ring(5)
    memory.add({"y": torch.tensor([0] * 20 + [1] * 20)})
    assert memory.column("y").bincount().tolist() == [2, 3]


@pytest.mark.parametrize("kind", [Ring, Whole])
@pytest.mark.parametrize("size", [1, 3, 13, 400])
def test_what_is_kept_is_a_function_of_the_order_of_arrival_and_not_of_batches(kind, size):
    draw = random.Random(0)
    arrivals = [draw.randrange(150) for _ in range(400)]
    memory = kind(37)
    for start in range(0, 400, size):
        memory.add(rows(arrivals[start : start + size]))
    assert set(memory.ids.tolist()) == last(arrivals, 37, (lambda i: i % 5) if kind is Ring else (lambda _: 0))
    assert len(memory.ids.unique()) == len(memory) == 37


@pytest.mark.parametrize("kind", [Ring, Whole])
@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_calls_gives_what_the_definition_gives(kind, seed):
    draw = random.Random(seed)
    capacity, classes = draw.choice([1, 3, 10, 40, 200]), draw.choice([1, 2, 7, 30])
    memory, arrivals, forgotten = kind(capacity), [], set()

    def group_of(id_):
        return id_ * id_ % classes if kind is Ring else 0

    for _ in range(40):
        ids = [draw.randrange(draw.choice([30, 300])) for _ in range(draw.choice([1, 2, 20, 70]))]
        before = set(memory.ids.tolist())
        x = torch.tensor(ids)
        if draw.random() < 0.15:
            assert memory.forget(x) == len(before & set(ids))
            forgotten |= set(ids)
            assert set(memory.ids.tolist()) == before - set(ids)
            # Those that had left already do not come back by themselves.
            arrivals = [id_ for id_ in arrivals if id_ in before - set(ids)]
        else:
            memory.add({"x": x * 3, "y": x * x % classes, "id": x})
            arrivals += [id_ for id_ in ids if id_ not in forgotten]
            assert set(memory.ids.tolist()) == last(arrivals, capacity, group_of)
        if len(memory):
            held = memory.rows()
            assert held["id"].equal(memory.ids)
            assert held["x"].equal(memory.ids * 3)


def test_a_row_that_comes_again_is_the_newest_and_is_stored_once():
    memory = Whole(4)
    memory.add(rows([0, 1, 2, 3]))
    memory.add(rows([0, 0]))
    memory.add(rows([4, 5]))
    assert sorted(memory.ids.tolist()) == [0, 3, 4, 5]
    assert memory.seen == 8


def test_epochs_do_not_store_a_row_twice():
    memory = Ring(500)
    for epoch in range(5):
        for ids in torch.randperm(2000, generator=torch.Generator().manual_seed(epoch)).split(128):
            memory.add(rows(ids))
    assert len(memory.ids.unique()) == len(memory) == 500


def test_what_is_kept_is_renewed_only_if_told_so():
    memory = Whole(10)
    batch = rows(range(10))
    memory.add(batch | {"x": torch.zeros(10, dtype=torch.float64)})
    memory.add(batch)
    assert memory.rows()["x"].sum() == 0
    memory.add(batch, renew=True)
    assert memory.rows()["x"].equal(memory.ids.double())


def test_rows_are_drawn_from_all_that_are_kept():
    memory = Ring(20)
    memory.add(rows(range(100)))
    drawn = torch.cat([memory.sample(5)["id"] for _ in range(200)])
    assert sorted(drawn.unique().tolist()) == list(range(80, 100))


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("stop", [0, 1, 9, 40])
def test_a_ring_that_was_stopped_goes_on_bit_for_bit(stop, on_disk, tmp_path):
    def new(name):
        return Ring(40, seed=stop, folder=tmp_path / name if on_disk else None)

    def feed(memory, draw):
        ids = torch.tensor([draw.randrange(300) for _ in range(draw.choice([1, 5, 40]))])
        kind = draw.random()
        if kind < 0.1:
            return memory.forget(ids)
        return memory.sample(7) if kind < 0.3 else memory.add(rows(ids, 7))

    draw, again = random.Random(stop), random.Random(stop)
    straight, stopped = new("straight"), new("stopped")
    for _ in range(stop):
        feed(straight, draw)
        feed(stopped, again)
    save(stopped.state_dict(), tmp_path / "checkpoint")
    ahead = random.Random(99)
    for _ in range(10):  # what comes after the state is lost in the crash
        feed(stopped, ahead)
    resumed = new("stopped")
    resumed.load_state_dict(load(tmp_path / "checkpoint"))
    for _ in range(40):
        assert same(feed(straight, draw), feed(resumed, again))
        assert resumed.ids.equal(straight.ids)
    assert same(straight.rows(), resumed.rows())
    assert same(straight.state_dict()["kept"], resumed.state_dict()["kept"])


def test_a_state_is_a_copy_and_loads_only_into_a_ring():
    memory = Ring(5)
    memory.add(rows(range(5)))
    state = memory.state_dict()
    memory.add(rows(range(5, 50)))
    assert sorted(state["kept"]["kept"][0].tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"class 'Ring'.*'Memory'"):
        Memory(5).load_state_dict(state)


def test_a_capacity_in_bytes_counts_the_bookkeeping():
    memory = Ring("10kB")
    memory.add({"y": torch.zeros(5000, dtype=torch.long)})
    assert len(memory) == 10_000 // (8 + Latest.ROW_BYTES)
    assert memory.index()._kept.nbytes == 0
    assert memory._kept._kept.nbytes == Latest.ROW_BYTES * len(memory)


def test_rows_known_by_arrival_are_all_new():
    memory = Whole(3)
    for part in torch.arange(10).split(4):
        memory.add({"x": part})
    assert sorted(memory.rows()["x"].tolist()) == [7, 8, 9]
    assert isinstance(Memory(3).index(), BottomK)


def test_keeping_draws_nothing_from_any_generator():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Ring(10).add(rows(range(50)))
    assert torch.get_rng_state().equal(before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
