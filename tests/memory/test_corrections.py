"""A row whose label was corrected is remembered as it is now."""

import random

import pytest
import torch
from memory.reference import Reference

from everlearn.batch import UNLABELED
from everlearn.checkpoint import load, same, save
from everlearn.memory import Balanced, Memory
from everlearn.memory.diverse import Diverse
from everlearn.memory.lossaware import LossAware
from everlearn.memory.ring import Ring

KINDS = [Memory, Balanced, Ring, LossAware, Diverse]


def rows(ids, y):
    ids = torch.as_tensor(ids)
    return {"x": ids * 3, "y": torch.as_tensor(y), "id": ids, "score": torch.ones(len(ids))}


def labels(memory):
    return dict(zip(memory.ids.tolist(), memory.column("y").tolist(), strict=True))


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_row_that_comes_with_another_label_is_kept_with_that(kind, on_disk, tmp_path):
    memory = kind(30, folder=tmp_path / "rows" if on_disk else None)
    for start in range(0, 60, 7):
        ids = torch.arange(start, start + 7)
        memory.add(rows(ids, ids % 4))
    before, state = labels(memory), memory.state_dict()
    wrong = sorted(before)[::3]
    memory.add(rows(wrong, [9] * len(wrong)))
    assert labels(memory) == before | dict.fromkeys(wrong, 9)
    assert memory.column("id").equal(memory.ids)
    assert memory.column("x").equal(memory.ids * 3)
    older = kind(30, folder=tmp_path / "rows" if on_disk else None)
    older.load_state_dict(state)  # what lies on disk was not overwritten
    assert labels(older) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_comes_without_a_label_is_not_corrected(kind):
    memory = kind(10)
    memory.add(rows(range(5), [1] * 5))
    memory.add(rows(range(5), [UNLABELED] * 5))
    assert set(labels(memory).values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_labels_in_one_batch_the_last_counts(kind):
    memory = kind(10)
    memory.add(rows([7, 8, 7], [1, 2, 3]))
    assert labels(memory) == {7: 3, 8: 2}


@pytest.mark.parametrize("kind", [Memory, Balanced])
@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_with_corrections_gives_what_one_row_at_a_time_gives(kind, seed):
    draw = random.Random(seed)
    capacity, classes, most = draw.choice([3, 10, 40]), draw.choice([2, 7]), draw.choice([30, 300])
    said = {id_: id_ % classes for id_ in range(most)}
    memory, reference = (
        kind(capacity, seed),
        Reference(capacity, seed, said.__getitem__ if kind is Balanced else lambda _: 0),
    )
    for _ in range(60):
        ids = draw.sample(range(most), draw.choice([1, 2, 20]))
        known = [id_ for id_ in ids if id_ in reference.kept and draw.random() < 0.5]
        said.update((id_, draw.randrange(classes + 1)) for id_ in known)
        memory.add(rows(ids, [said[id_] for id_ in ids]))
        reference.add(ids)
        assert labels(memory) == {id_: said[id_] for id_ in reference.kept}
        assert memory.column("x").equal(memory.ids * 3)


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("kind", KINDS)
def test_after_corrections_a_memory_that_was_stopped_goes_on_bit_for_bit(kind, on_disk, tmp_path):
    def feed(memory, seed):
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(60, (12,), generator=draw)
        memory.add(rows(ids, (ids + torch.randint(2, (12,), generator=draw)) % 5))
        return memory.sample(3)

    straight, stopped = (kind(20, folder=tmp_path / name if on_disk else None) for name in ("one", "other"))
    for seed in range(12):
        feed(straight, seed)
        feed(stopped, seed)
    save(stopped.state_dict(), tmp_path / "checkpoint")
    feed(stopped, 99)  # is lost in a crash
    resumed = kind(20, folder=tmp_path / "other" if on_disk else None)
    resumed.load_state_dict(load(tmp_path / "checkpoint"))
    for seed in range(12, 30):
        assert same(feed(straight, seed), feed(resumed, seed))
    assert same(straight.rows(), resumed.rows())


@pytest.mark.parametrize("kind", [Ring, LossAware])
def test_rows_whose_ids_do_not_lie_in_order_are_renewed_each_in_its_own_slot(kind):
    for seed in range(20):
        memory, draw = kind(8), torch.Generator().manual_seed(seed)
        for _ in range(23):
            ids = torch.randperm(40, generator=draw)[:6]
            memory.add({"id": ids, "y": ids % 3, "note": ids * 2}, renew=True)
        everything = torch.randperm(40, generator=draw)
        memory.add({"id": everything, "y": everything % 3, "note": everything * 5}, renew=True)
        assert memory.column("note").eq(memory.ids * 5).all()
        assert memory.column("id").equal(memory.ids)
