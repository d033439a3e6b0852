"""The order of the data is a pure function, so that a place in it is all that a checkpoint keeps."""

import random

import numpy as np
import pytest
import torch

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.randomness import global_state

CPU = torch.device("cpu")


class Foreign:
    """Rows that are made one by one, with augmentation from the global generators, as many data sets do it."""

    resident = False

    def __init__(self, count=23, ids=None):
        self.count, self.ids = count, ids

    def __len__(self):
        return self.count

    def take(self, index):
        noise = torch.rand(len(index)) + random.random() + np.random.rand()  # noqa: NPY002
        columns = {"x": index.clone(), "noise": noise}
        return columns if self.ids is None else columns | {"id": self.ids[index]}

    def column(self, name):
        raise KeyError(name)


def resident(count=23):
    return Columns(x=torch.arange(count))


def everything(rows, order=None, size=5, **options):
    order = epoch_order(len(rows), 0, 0, 0) if order is None else order
    return list(batches(rows, order, size, **options))


def test_an_order_is_a_permutation_that_depends_on_its_three_places_alone():
    before = torch.get_rng_state()
    order = epoch_order(100, 1, 2, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(order.tolist()) == list(range(100))
    torch.manual_seed(99)
    assert torch.equal(order, epoch_order(100, 1, 2, 3))
    others = [epoch_order(100, *place) for place in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2))]
    assert not any(torch.equal(order, other) for other in others)


def test_orders_favour_no_place():
    first = torch.stack([epoch_order(10, 0, 0, epoch) for epoch in range(3000)])[:, 0].bincount(minlength=10)
    assert ((first - 300) ** 2 / 300).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize("rows", [resident(), Foreign()])
def test_every_row_comes_once_in_order_and_the_last_batch_may_be_smaller(rows):
    made = everything(rows)
    assert [len(batch["x"]) for batch in made] == [5, 5, 5, 5, 3]
    assert torch.cat([batch["x"] for batch in made]).tolist() == epoch_order(23, 0, 0, 0).tolist()


@pytest.mark.parametrize("rows", [resident(), Foreign()])
@pytest.mark.parametrize("skip", [0, 1, 4, 5, 9])
def test_skipping_is_the_rest_bit_for_bit(rows, skip):
    assert checkpoint.same(everything(rows, skip=skip), everything(rows)[skip:])


def test_any_number_of_workers_gives_the_same_batches():
    alone = everything(Foreign(), seed=4)
    for workers in (1, 3):
        assert checkpoint.same(alone, everything(Foreign(), seed=4, workers=workers))
        assert checkpoint.same(alone[2:], everything(Foreign(), seed=4, workers=workers, skip=2))


def test_augmentation_depends_on_the_seed_and_on_nothing_else():
    first = everything(Foreign(), seed=4)
    torch.manual_seed(77)
    random.seed(77)
    assert checkpoint.same(first, everything(Foreign(), seed=4))
    assert not checkpoint.same(first, everything(Foreign(), seed=5))
    noise = torch.cat([batch["noise"] for batch in first])
    assert len(noise.unique()) == 23  # no two batches draw the same


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [resident(), Foreign()])
def test_the_global_generators_stay_untouched(rows, workers):
    before = global_state(CPU)
    everything(rows, workers=workers)
    assert checkpoint.same(before, global_state(CPU))


@pytest.mark.parametrize("rows", [resident(), Foreign()])
def test_rows_are_known_by_their_position(rows):
    for batch in everything(rows, first_id=1000):
        assert torch.equal(batch["id"], batch["x"] + 1000)


def test_ids_that_the_rows_have_stay():
    ids = torch.arange(100, 123)
    made = everything(Foreign(ids=ids), first_id=1000) + everything(Columns(x=torch.arange(23), id=ids), first_id=1000)
    for batch in made:
        assert torch.equal(batch["id"], batch["x"] + 100)


@pytest.mark.parametrize("rows", [resident(), Foreign()])
@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_make_the_batch(rows, world):
    whole = everything(rows)
    shares = [everything(rows, share=(rank, world)) for rank in range(world)]
    assert all(len(share) == len(whole) for share in shares)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.cat([part["id"] for part in parts]).tolist() == batch["id"].tolist()
        assert max(len(part["id"]) for part in parts) - min(len(part["id"]) for part in parts) <= 1


@pytest.mark.parametrize("rows", [resident(0), Foreign(0)])
def test_no_rows_are_no_batches(rows):
    assert everything(rows) == []


def test_a_resident_data_set_is_gathered_once_for_each_batch():
    class Counting(Columns):
        taken = 0

        def take(self, index):
            Counting.taken += 1
            return super().take(index)

    everything(Counting(x=torch.arange(23)), workers=3)
    assert Counting.taken == 5
