"""Which rows are kept: a uniform sample of the distinct ids, shared evenly between the classes if asked."""

import random

import numpy as np
import pytest
import torch
from memory.reference import Reference, smallest

from everlearn.batch import UNLABELED, take
from everlearn.memory import Balanced, Memory, bottomk
from everlearn.memory.priority import identities, priorities, stream


def rows(ids, classes=5):
    ids = torch.as_tensor(ids)
    return {"x": ids.to(torch.float64), "y": ids % classes, "id": ids}


def too_uneven(counts, trials, share):
    """How many standard deviations the chi-square of `counts` is above that of a uniform sample, or below."""
    # Rows are drawn without replacement in each trial; its fixed sum takes one degree of freedom.
    n = len(counts)
    expected = trials * share
    chi_square = ((counts - expected) ** 2 / (expected * (1 - share))).sum() * (n - 1) / n
    return (chi_square - (n - 1)) / (2 * (n - 1)) ** 0.5


def test_a_priority_can_be_undone_and_never_ties():
    ids = torch.cat([torch.arange(-500, 500), torch.randint(-(2**62), 2**62, (1000,))]).unique().numpy()
    for seed in (0, 1, -7, 2**70):
        hashed = priorities(ids, stream(seed))
        assert np.array_equal(identities(hashed, stream(seed)), ids)
        assert len(np.unique(hashed)) == len(ids)


def test_priorities_of_neighbours_and_of_round_numbers_fill_all_bits_evenly():
    for ids in (np.arange(4096), np.arange(4096) << 48, np.arange(4096) * 4096):
        hashed = priorities(ids.astype(np.int64), stream(3))
        share = ((hashed[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).mean(0)
        assert abs(share - 0.5).max() < 0.04  # five standard deviations


@pytest.mark.parametrize("batch", [1, 7, 40, 150])
@pytest.mark.parametrize("named", [True, False], ids=["with ids", "by arrival"])
def test_each_place_of_the_stream_is_equally_likely_to_be_kept(batch, named):
    trials, length, capacity = {1: 60, 7: 150}.get(batch, 400), 150, 15
    counts = np.zeros(length)
    for seed in range(trials):
        memory = Memory(capacity, seed)
        for start in range(0, length, batch):
            x = torch.arange(start, min(start + batch, length))
            memory.add({"x": x, "id": x} if named else {"x": x})
        counts[memory.rows()["x"].numpy()] += 1
    assert abs(too_uneven(counts, trials, capacity / length)) < 4


def test_epochs_do_not_change_the_sample_nor_its_uniformity():
    trials, length, capacity = 300, 100, 10
    counts = np.zeros(length)
    for seed in range(trials):
        memory = Memory(capacity, seed)
        memory.add(rows(range(length)))
        once = memory.ids
        for _ in range(3):
            memory.add(rows(torch.randperm(length)))
        assert memory.ids.equal(once)
        counts[memory.ids.numpy()] += 1
    assert abs(too_uneven(counts, trials, capacity / length)) < 4


def test_500_slots_hold_500_different_rows_after_50_epochs():
    memory = Memory(500)
    for epoch in range(50):
        for ids in torch.randperm(2000, generator=torch.Generator().manual_seed(epoch)).split(128):
            memory.add(rows(ids))
    assert len(memory) == 500
    assert len(memory.ids.unique()) == 500
    assert memory.seen == 100_000


@pytest.mark.parametrize("kind", [Memory, Balanced])
def test_what_is_kept_depends_on_the_set_of_ids_and_not_on_their_order_or_batches(kind):
    shuffled = random.Random(0)
    expected = smallest(range(400), 37, 5, (lambda i: i % 5) if kind is Balanced else (lambda _: 0))
    for size in (1, 13, 64, 400):
        ids = [*range(400), *range(0, 400, 3)]
        shuffled.shuffle(ids)
        memory = kind(37, 5)
        for start in range(0, len(ids), size):
            memory.add(rows(ids[start : start + size]))
        assert set(memory.ids.tolist()) == expected


@pytest.mark.parametrize("kind", [Memory, Balanced])
@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_calls_gives_what_one_row_at_a_time_gives(kind, seed):
    draw = random.Random(seed)
    capacity, classes = draw.choice([1, 3, 10, 40, 200]), draw.choice([1, 2, 7, 30])
    most = draw.choice([30, 300, 3000])

    def group_of(id_):
        return id_ * id_ % classes if kind is Balanced else 0

    memory, reference = kind(capacity, seed), Reference(capacity, seed, group_of)
    for _ in range(40):
        ids = [draw.randrange(most) for _ in range(draw.choice([1, 2, 20, 70]))]
        if draw.random() < 0.2:
            assert memory.forget(torch.tensor(ids)) == reference.forget(ids)
        else:
            x = torch.tensor(ids)
            memory.add({"x": x * 3, "y": x * x % classes, "id": x})
            reference.add(ids)
        assert set(memory.ids.tolist()) == reference.kept.keys()
        assert len(memory) == len(reference.kept)
        if len(memory):
            held = memory.rows()
            assert held["id"].equal(memory.ids)
            assert held["x"].equal(memory.ids * 3)


def test_the_reference_of_one_row_at_a_time_agrees_with_the_definition():
    for seed in range(5):
        one_by_one = Reference(20, seed, lambda i: i % 7)
        one_by_one.add(range(150))
        assert one_by_one.kept.keys() == smallest(range(150), 20, seed, lambda i: i % 7)


def test_a_large_memory_settles_many_times_and_stays_exact():
    memory, ids = Memory(3000, 1), list(range(12_000))
    random.Random(1).shuffle(ids)
    for start in range(0, len(ids), 100):
        memory.add(rows(ids[start : start + 100]))
        memory.add(rows(ids[max(0, start - 150) : start + 50]))
    assert set(memory.ids.tolist()) == smallest(ids, 3000, 1)


def test_rows_that_come_one_by_one_wait_and_are_not_lost(monkeypatch):
    monkeypatch.setattr(bottomk, "_WAITING", 7)
    memory = Memory(100)
    for x in torch.arange(130).split(1):
        memory.add({"x": x})
        assert memory.take(torch.arange(len(memory)))["x"].sort().values.equal(memory.ids.sort().values)
    assert set(memory.ids.tolist()) == smallest(range(130), 100, 0)


def test_a_balanced_memory_has_the_same_number_of_rows_of_each_class():
    memory = Balanced(60)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        memory.add({"y": (torch.rand(100, generator=generator) ** 2 * 6).long()})  # class 0 is six times class 5
    assert memory.column("y").bincount().tolist() == [10] * 6


def test_places_that_a_rare_class_cannot_fill_go_to_the_others():
    memory = Balanced(50)
    memory.add({"y": torch.tensor([0] * 100 + [1] * 4 + [UNLABELED] * 100 + [7] * 12)})
    y = memory.column("y")
    assert [(y == c).sum().item() for c in (1, 7)] == [4, 12]
    assert {(y == 0).sum().item(), (y == UNLABELED).sum().item()} == {17}


def test_a_new_class_takes_its_share_from_the_largest():
    memory = Balanced(90)
    for c in range(9):
        memory.add({"y": torch.full((200,), c)})
        shares = memory.column("y").bincount()
        assert shares.sum() == 90
        assert shares.max() - shares.min() <= 1


def test_with_more_classes_than_places_each_row_is_of_another_class():
    memory = Balanced(8)
    for start in range(0, 60, 20):
        memory.add({"y": torch.arange(start, start + 20).repeat(3)})
    assert len(memory.column("y").unique()) == 8


def test_within_a_class_each_row_is_equally_likely_to_be_kept():
    trials, counts = 300, {c: np.zeros(60) for c in range(3)}
    for seed in range(trials):
        memory = Balanced(24, seed)
        for start in range(0, 180, 36):
            ids = torch.arange(start, start + 36)
            memory.add({"y": ids // 60, "id": ids})  # the classes come one after the other
        for c, count in counts.items():
            count[memory.ids[memory.ids // 60 == c].numpy() - c * 60] += 1
    for count in counts.values():
        assert count.sum() == trials * 8
        assert abs(too_uneven(count, trials, 8 / 60)) < 4


def test_an_id_that_left_under_one_class_may_come_back_under_another_class():
    memory = Balanced(10)
    memory.add({"y": torch.zeros(10, dtype=torch.long), "id": torch.arange(10)})
    memory.load_state_dict(memory.state_dict())
    memory.add({"y": torch.ones(9, dtype=torch.long), "id": torch.arange(100, 109)})
    left = sorted(set(range(10)) - set(memory.ids.tolist()))
    assert len(left) == 5
    memory.add({"y": torch.full((5,), 2), "id": torch.tensor(left)})
    assert sorted(memory.column("y").bincount().tolist()) == [3, 3, 4]
    assert set(memory.rows()["id"][memory.column("y") == 2].tolist()) <= set(left)


def test_a_forgotten_row_never_comes_back():
    memory = Memory(10)
    memory.add(rows(range(100)))
    gone = memory.ids[:4].clone()
    never_there = torch.tensor([1000])
    assert memory.forget(torch.cat([gone, gone, never_there])) == 4
    assert len(memory) == 6
    assert memory.forget(gone) == 0
    for _ in range(3):
        memory.add(rows(range(100)))
        memory.add(rows([1000]))
    assert len(memory) == 6
    assert not set(memory.ids.tolist()) & {*gone.tolist(), 1000}


def test_a_forgotten_place_in_the_order_of_arrival_stays_empty():
    memory = Memory(10)
    memory.forget(torch.tensor([3]))
    memory.add({"x": torch.arange(5)})
    assert memory.ids.tolist() == [0, 1, 2, 4]
    assert memory.rows()["x"].tolist() == [0, 1, 2, 4]


def test_after_forgetting_each_row_is_still_equally_likely_to_be_kept():
    trials, length = 500, 120
    forgotten = np.arange(0, 60, 2)
    counts, kept = np.zeros(length), 0
    for seed in range(trials):
        memory = Memory(20, seed)
        memory.add(rows(range(60)))
        memory.forget(torch.from_numpy(forgotten))
        memory.add(rows(range(60, length)))
        counts[memory.ids.numpy()] += 1
        kept += len(memory)
    remembered = np.delete(counts, forgotten)
    assert counts[forgotten].sum() == 0
    share = kept / trials / len(remembered)
    assert abs(too_uneven(remembered, trials, share)) < 4


def test_after_forgetting_a_balanced_memory_is_still_uniform_within_each_class():
    trials, counts = 400, np.zeros(80)
    for seed in range(trials):
        memory = Balanced(16, seed)
        memory.add({"y": torch.arange(40) % 2, "id": torch.arange(40)})
        memory.forget(torch.arange(0, 20, 2))  # of class 0 only
        memory.add({"y": torch.arange(40, 80) % 2, "id": torch.arange(40, 80)})
        counts[memory.ids.numpy()] += 1
    for left in (np.arange(20, 80, 2), np.arange(1, 80, 2)):
        share = counts[left].sum() / trials / len(left)
        assert abs(too_uneven(counts[left], trials, share)) < 4


def test_all_rows_can_be_forgotten():
    memory = Balanced(5)
    memory.add(rows(range(20)))
    assert memory.forget(memory.ids) == 5
    assert len(memory) == 0
    assert memory.sample(3) == {}
    assert memory.rows() == {}
    memory.add(rows(range(1000, 9000)))
    assert len(memory) == 5


def test_keeping_draws_nothing_from_any_generator():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    memory = Memory(10)
    drawn = memory.state_dict()["draws"]["random"]
    memory.add(rows(range(50)))
    assert memory.state_dict()["draws"]["random"].equal(drawn)
    memory.sample(3)
    assert torch.get_rng_state().equal(before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("count", [3, 8, 20])
def test_each_row_is_equally_likely_to_be_drawn_and_never_twice(count):
    memory = Memory(20)
    memory.add({"x": torch.arange(20)})
    trials, counts, first = 2000, np.zeros(20), np.zeros(20)
    for _ in range(trials):
        x = memory.sample(count)["x"]
        assert len(x) == len(x.unique()) == count
        counts[x.numpy()] += 1
        first[x[0]] += 1
    assert abs(too_uneven(first, trials, 1 / 20)) < 4
    if count < 20:
        assert abs(too_uneven(counts, trials, count / 20)) < 4


def test_seeds_give_different_memories_and_the_same_seed_the_same():
    def made(seed):
        memory = Memory(50, seed)
        memory.add(rows(range(500)))
        return memory

    assert made(1).ids.equal(made(1).ids)
    assert made(1).sample(5)["id"].equal(made(1).sample(5)["id"])
    assert len(set(made(1).ids.tolist()) & set(made(2).ids.tolist())) < 15


@pytest.mark.parametrize("kind", [Memory, Balanced])
def test_a_kept_row_that_comes_again_is_renewed_only_if_told_so(kind):
    memory = kind(50)
    batch = {"id": torch.arange(400), "y": torch.arange(400) % 4, "note": torch.zeros(400)}
    for part in range(0, 400, 16):  # some ids still wait in the short run
        memory.add(take(batch, slice(part, part + 16)))
    kept = memory.ids.clone()
    memory.add(batch | {"note": torch.ones(400)})
    assert memory.rows()["note"].sum() == 0
    memory.add(batch | {"note": batch["id"].float()}, renew=True)
    assert torch.equal(memory.ids, kept)
    assert torch.equal(memory.rows()["note"], kept.float())
    twice = torch.cat([kept[:1], kept[:1]])
    memory.add({"id": twice, "y": twice % 4, "note": torch.tensor([-1.0, -2.0])}, renew=True)
    assert memory.rows()["note"][0] == -2
