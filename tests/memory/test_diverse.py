"""A diverse memory lets rows challenge each other for their places, by their scores."""

import random

import numpy as np
import pytest
import torch

from everlearn.checkpoint import load, same, save
from everlearn.memory.diverse import Challenged, Diverse


def rows(ids, scores):
    ids = torch.as_tensor(ids)
    return {"x": ids.double() * 3, "id": ids, "score": torch.as_tensor(scores, dtype=torch.float32).expand(len(ids))}


def test_while_there_is_room_every_row_enters_whatever_its_score():
    memory = Diverse(5)
    memory.add(rows(range(3), [0.0, 1.0, 2.0]))
    memory.add(rows(range(3, 9), 2.0))
    assert memory.ids.tolist() == [0, 1, 2, 3, 4]


def test_a_score_of_one_or_more_does_not_challenge():
    memory = Diverse(5)
    memory.add(rows(range(5), 2.0))
    memory.add(rows(range(10, 500), 1.0))
    assert memory.ids.tolist() == [0, 1, 2, 3, 4]
    memory.add(rows(range(500, 504), 0.999))
    assert memory.ids.max() >= 500


def test_who_is_challenged_and_who_wins_has_the_probabilities_of_the_paper():
    held, challenger, trials = np.array([0.2, 0.5, 1.0, 1.8]), 0.4, 5_000
    lost = np.zeros(4)
    for seed in range(trials):
        index = Challenged(seed)
        index.capacity = 4
        units = (held * 2**30).astype(np.int64)
        index.offer(np.arange(4), units)
        entering, slots = index.offer(np.array([9]), np.array([int(challenger * 2**30)]))
        lost[slots] += 1
        assert len(entering) == len(slots) <= 1
    rates = held - held.min()
    expected = rates / rates.sum() * held / (held + challenger)
    spread = np.sqrt(expected * (1 - expected) / trials)
    assert (np.abs(lost / trials - expected) <= 4 * spread).all()


def test_rows_of_one_batch_challenge_different_rows():
    memory = Diverse(30)
    memory.add(rows(range(30), 2.0))  # of equal scores, all may be challenged
    memory.add(rows(range(100, 130), 0.0))  # who has a score of 0 always wins
    assert sorted(memory.ids.tolist()) == list(range(100, 130))
    memory = Diverse(3)
    memory.add(rows(range(3), 2.0))
    memory.add(rows(range(10, 50), 0.0))  # more challengers than there are places
    assert sorted(memory.ids.tolist()) == [10, 11, 12]


def test_the_row_that_is_most_unlike_the_others_is_never_challenged():
    memory = Diverse(4)
    memory.add(rows(range(4), [1.9, 0.5, 1.8, 1.7]))
    memory.add(rows(range(10, 200), 0.6))
    assert 1 in memory.ids.tolist()
    assert not {0, 2, 3} & set(memory.ids.tolist())


def test_what_is_kept_already_is_passed_over_and_never_stored_twice():
    memory = Diverse(10)
    memory.add(rows(range(10), 1.5))
    memory.add(rows([*range(10), 3, 3], 0.0))
    assert memory.ids.tolist() == list(range(10))
    memory.add(rows([77, 77, 77, 77], 0.0))
    assert memory.ids.tolist().count(77) == 1


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_calls_leaves_each_row_in_one_slot_with_its_own_columns(seed):
    draw = random.Random(seed)
    capacity = draw.choice([1, 3, 10, 40])
    memory, forgotten = Diverse(capacity, seed), set()
    for _ in range(60):
        ids = [draw.randrange(300) for _ in range(draw.choice([1, 2, 20, 70]))]
        before = set(memory.ids.tolist())
        if draw.random() < 0.15:
            assert memory.forget(torch.tensor(ids)) == len(before & set(ids))
            forgotten |= set(ids)
            assert set(memory.ids.tolist()) == before - set(ids)
        else:
            memory.add(rows(ids, [draw.random() * 2 for _ in ids]))
            after = set(memory.ids.tolist())
            assert len(after) == len(memory) <= capacity
            assert after <= before | set(ids)
            assert not after & forgotten
        if len(memory):
            held = memory.rows()
            assert held["id"].equal(memory.ids)
            assert held["x"].equal(memory.ids.double() * 3)


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("stop", [0, 1, 9, 40])
def test_a_memory_that_was_stopped_goes_on_bit_for_bit(stop, on_disk, tmp_path):
    def new(name):
        return Diverse(20, seed=stop, folder=tmp_path / name if on_disk else None)

    def feed(memory, step):
        draw = random.Random(step)
        ids = [draw.randrange(300) for _ in range(draw.choice([1, 5, 30]))]
        kind = draw.random()
        if kind < 0.1:
            memory.forget(torch.tensor(ids))
        elif kind < 0.3:
            memory.sample(7)
        else:
            memory.add(rows(ids, [draw.random() * 2 for _ in ids]))

    whole, first = new("whole"), new("parts")
    for step in range(60):
        feed(whole, step)
    for step in range(stop):
        feed(first, step)
    save(first.state_dict(), tmp_path / "c")
    second = new("parts")
    second.load_state_dict(load(tmp_path / "c"))
    for step in range(stop, 60):
        feed(second, step)
    assert same(whole.rows(), second.rows())
    assert same(whole.sample(5), second.sample(5))


def test_a_row_without_a_score_is_refused():
    with pytest.raises(KeyError, match="'score'"):
        Diverse(3).add({"x": torch.zeros(2)})
