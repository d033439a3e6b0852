"""A loss-aware memory admits rows like a reservoir, and lets go of what is known well and of what there is much of."""

import random
from itertools import permutations

import numpy as np
import pytest
import torch
from methods.small import everything, experience, net
from torch.nn import functional as F

from everlearn.batch import UNLABELED, join
from everlearn.checkpoint import load, same, save
from everlearn.learner import Learner
from everlearn.memory import LossAware, Memory
from everlearn.memory.lossaware import Hardest
from everlearn.methods import MIR, Replay
from everlearn.methods.composition import build
from everlearn.objective import classify

CLASSES = 3


def rows(ids, classes=CLASSES):
    ids = torch.as_tensor(ids)
    return {"x": ids.to(torch.float64), "y": ids % classes, "id": ids}


def told(memory, losses):
    """Notes these losses, by id."""
    memory._kept.note(np.array(list(losses)), np.array(list(losses.values())))


def filled(losses, seed=0, classes=CLASSES):
    """A full memory whose rows have the ids 0, 1, ... and these losses."""
    memory = LossAware(len(losses), seed)
    memory.add(rows(range(len(losses)), classes))
    told(memory, dict(enumerate(losses)))
    return memory


def by_hand(labels, losses, entering):
    """The probability of each row to be the first to leave, in plain Python."""
    everyone = [*labels, *entering]
    counts = [everyone.count(label) for label in labels]
    mean_loss, mean_count = sum(losses) / len(losses), sum(counts) / len(counts)
    scores = [count - loss / (mean_loss * mean_count) for count, loss in zip(counts, losses, strict=True)]
    above = [score - min(scores) for score in scores]
    return [each / sum(above) for each in above]


def too_uneven(counts, chances):
    """How many standard deviations the chi-square of the counts is above its mean."""
    expected = counts.sum() * chances
    there = chances > 0
    assert counts[~there].sum() == 0
    square = ((counts - expected)[there] ** 2 / expected[there]).sum()
    freedom = there.sum() - 1
    return (square - freedom) / (2 * freedom) ** 0.5


LOSSES = [0.1, 2.0, 0.5, 0.4, 1.5, 3.0, 0.9, 0.2]


def admitted(seed):
    """The first id that a full memory of 8 rows lets in, one at a time, and the id that leaves for it."""
    memory = filled(LOSSES, seed)
    for id_ in range(8 + seed % CLASSES, 10_000):
        memory.add(rows([id_]))
        if id_ in memory.ids.tolist():
            return id_, next(iter(set(range(8)) - set(memory.ids.tolist())))
    raise AssertionError


def test_the_chances_to_leave_are_those_of_the_definition():
    memory = filled(LOSSES)
    found = memory._kept.chances(np.array([2, 2, 1]))
    labels = [id_ % CLASSES for id_ in memory.ids.tolist()]
    torch.testing.assert_close(torch.from_numpy(found), torch.tensor(by_hand(labels, LOSSES, [2, 2, 1])).double())
    assert abs(found.sum() - 1) < 1e-12


def test_the_row_that_leaves_is_drawn_by_these_chances():
    counts = {label: np.zeros(8) for label in range(CLASSES)}
    for seed in range(1500):
        id_, left = admitted(seed)
        counts[id_ % CLASSES][left] += 1
    labels = [id_ % CLASSES for id_ in range(8)]
    for label, each in counts.items():
        assert each.sum() > 300
        assert too_uneven(each, np.array(by_hand(labels, LOSSES, [label]))) < 4


def test_those_that_leave_together_are_drawn_one_after_the_other():
    """Two of four at once: the probability of each pair is that of two draws without replacement."""
    losses, trials = [0.1, 2.0, 0.5, 1.0], 4000
    entering = np.array([9, 9])
    chances = np.array(by_hand([0, 0, 0, 0], losses, [9, 9]))
    counts, index = {}, Hardest(0)
    index.capacity = 4
    index.offer(np.arange(4), np.zeros(4, np.int64), new=True)
    index.note(np.arange(4), np.array(losses))
    for _ in range(trials):  # each draw is a new one
        pair = frozenset(index._leaving(2, entering).tolist())
        counts[pair] = counts.get(pair, 0) + 1
    expected = {}
    for first, second in permutations(range(4), 2):
        if chances[first] < 1:
            both = chances[first] * chances[second] / (1 - chances[first])
            expected[frozenset((first, second))] = expected.get(frozenset((first, second)), 0) + both
    pairs = sorted(expected, key=sorted)
    assert too_uneven(np.array([counts.get(p, 0) for p in pairs]), np.array([expected[p] for p in pairs])) < 4


def test_the_row_of_the_highest_loss_stays_where_classes_are_even():
    memory = filled([1.0, 1.0, 1.0, 1.0, 9.0, 1.0], classes=1)
    for start in range(6, 3000, 3):
        memory.add(rows(range(start, start + 3), 1))
        told(memory, dict.fromkeys(memory.ids.tolist(), 1.0) | {4: 9.0})
    assert 4 in memory.ids.tolist()


def test_of_two_classes_the_larger_gives_up_its_places():
    memory = LossAware(40)
    memory.add({"y": torch.zeros(40, dtype=torch.long), "id": torch.arange(40)})
    for start in range(40, 1000, 20):
        ids = torch.arange(start, start + 20)
        memory.add({"y": torch.ones(20, dtype=torch.long), "id": ids})
    assert (memory.column("y").bincount() - 20).abs().max() <= 6
    assert len(memory) == 40


@pytest.mark.parametrize("size", [1, 8])
def test_as_many_rows_enter_as_into_a_uniform_sample(size):
    """Each place of the stream is as likely to be let in as by a reservoir: capacity / its number."""
    trials, length, capacity = 150, 48, 8
    counts = np.zeros(length)
    for seed in range(trials):
        memory = LossAware(capacity, seed)
        for start in range(0, length, size):
            before = set(memory.ids.tolist())
            ids = torch.arange(start, start + size)
            memory.add({"id": ids, "y": (ids >= length // 2).long()})  # a class that comes late has no privilege
            counts[list(set(memory.ids.tolist()) - before)] += 1
    last = np.arange(size, length + size, size).repeat(size)  # those seen when the batch had come
    share = np.minimum(1, capacity / last)
    assert (counts[share == 1] == trials).all()
    away = (counts - trials * share) / np.sqrt(trials * np.maximum(share * (1 - share), 1e-9))
    assert (away[share < 1] ** 2).mean() < 1 + 4 * (2 / (share < 1).sum()) ** 0.5


@pytest.mark.parametrize("seed", range(6))
def test_no_id_is_stored_twice_or_comes_back_whatever_is_called(seed):
    draw = random.Random(seed)
    memory = LossAware(draw.choice([1, 5, 20]), seed)
    left, forgotten, most = set(), set(), draw.choice([40, 400])
    for _ in range(60):
        ids = [draw.randrange(most) for _ in range(draw.choice([1, 3, 30]))]
        before = set(memory.ids.tolist())
        kind = draw.random()
        if kind < 0.15:
            assert memory.forget(torch.tensor(ids)) == len(before & set(ids))
            forgotten |= set(ids)
        elif kind < 0.5:
            told(memory, {id_: draw.random() for id_ in set(ids)})
        else:
            memory.add(rows(ids))
        kept = memory.ids.tolist()
        assert len(kept) == len(set(kept)) == len(memory) <= memory.capacity
        assert not set(kept) & (left | forgotten), "what is out is out"
        left |= before - set(kept)
        if kept:
            held = memory.rows()
            assert held["id"].equal(memory.ids)
            assert held["x"].equal(memory.ids.double())
            assert held["y"].tolist() == memory._kept._kept[1].tolist()


def test_epochs_change_nothing_but_losses():
    memory, kept = LossAware(50), []
    for epoch in range(3):
        for ids in torch.randperm(400, generator=torch.Generator().manual_seed(epoch)).split(32):
            memory.add(rows(ids))
        kept.append(memory.ids)
    assert kept[0].equal(kept[1])
    assert kept[0].equal(kept[2])
    assert len(memory) == 50


def test_a_loss_is_the_cross_entropy_of_now_and_unknown_losses_count_as_the_mean():
    memory = LossAware(6)
    batch = rows(range(6))
    memory.add(batch)
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))
    memory.note({n: c[:4] for n, c in batch.items()}, logits)
    expected = F.cross_entropy(logits[:4], batch["y"][:4], reduction="none").double()
    found = dict(zip(memory.ids.tolist(), memory._kept._losses.tolist(), strict=True))
    torch.testing.assert_close(torch.tensor([found[i] for i in range(4)]).double(), expected)
    assert np.isnan([found[4], found[5]]).all()
    known, unknown = filled([*expected.tolist(), expected.mean(), expected.mean()]), memory
    np.testing.assert_allclose(unknown._kept.chances(np.array([0])), known._kept.chances(np.array([0])))
    memory.note(batch, logits.flip(0))
    again = F.cross_entropy(logits.flip(0), batch["y"], reduction="none").double()
    found = dict(zip(memory.ids.tolist(), memory._kept._losses.tolist(), strict=True))
    torch.testing.assert_close(torch.tensor([found[i] for i in range(6)]).double(), again)


def test_without_any_loss_only_the_classes_decide():
    memory = LossAware(5)
    memory.add({"y": torch.tensor([0, 0, 0, 0, 1]), "id": torch.arange(5)})
    np.testing.assert_allclose(memory._kept.chances(np.array([1])), [0.25, 0.25, 0.25, 0.25, 0])
    np.testing.assert_allclose(memory._kept.chances(np.array([1, 1, 1])), [0.2] * 5, err_msg="even")


def test_rows_without_a_label_and_rows_that_are_not_kept_have_no_loss():
    memory = LossAware(3)
    batch = {"y": torch.tensor([0, UNLABELED, 1]), "id": torch.arange(3)}
    memory.add(batch)
    memory.note(join(batch, {"y": torch.tensor([0]), "id": torch.tensor([77])}), torch.zeros(4, 2))
    assert np.isnan(memory._kept._losses[memory.ids.tolist().index(1)])
    assert np.isfinite(memory._kept._losses).sum() == 2


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("kind", [Replay, MIR])
def test_methods_tell_the_losses_of_what_they_learn(kind, combine):
    model, method = net(), kind(LossAware(40), count=4, combine=combine)
    batch = everything(experience().train) | {"id": torch.arange(20)}
    method(model, batch, classify)
    logits = model(batch["x"]).detach()
    first = F.cross_entropy(logits, batch["y"], reduction="none").double()
    index = method.memory._kept
    by_id = dict(zip(index.ids.tolist(), index._losses.tolist(), strict=True))
    torch.testing.assert_close(torch.tensor([by_id[i] for i in range(20)]).double(), first)
    with torch.no_grad():
        model[0].weight += 0.5
    method(model, everything(experience(1).train) | {"id": torch.arange(20) + 50}, classify)
    now = F.cross_entropy(model(batch["x"]).detach(), batch["y"], reduction="none")
    by_id = dict(zip(index.ids.tolist(), index._losses.tolist(), strict=True))
    renewed = [i for i in range(20) if abs(by_id[i] - float(now[i])) < 1e-6]
    assert len(renewed) == 4, "those that were drawn, and no other"
    assert all(abs(by_id[i] - float(first[i])) < 1e-6 for i in range(20) if i not in renewed)


def test_telling_a_memory_that_does_not_listen_changes_nothing():
    memory = Memory(5)
    memory.add(rows(range(9)))
    before = memory.state_dict()
    memory.note(rows(range(9)), torch.zeros(9, 3))
    assert same(before, memory.state_dict())


def test_a_row_without_an_id_cannot_be_told_about():
    memory = LossAware(5)
    memory.add({"y": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="no column 'id'; add one"):
        memory.note({"y": torch.tensor([0, 1])}, torch.zeros(2, 2))


@pytest.mark.parametrize("on_disk", [False, True], ids=["RAM", "disk"])
@pytest.mark.parametrize("stop", [0, 1, 9, 40])
def test_a_memory_that_was_stopped_goes_on_bit_for_bit(stop, on_disk, tmp_path):
    def new(name):
        return LossAware(40, seed=stop, folder=tmp_path / name if on_disk else None)

    def feed(memory, draw):
        ids = torch.tensor([draw.randrange(3000) for _ in range(draw.choice([1, 5, 40]))])
        kind = draw.random()
        if kind < 0.1:
            return memory.forget(ids)
        if kind < 0.3:
            return memory.sample(7)
        memory.add(rows(ids, 7))
        return memory.note(rows(ids, 7), torch.tensor([[draw.random() for _ in range(7)] for _ in ids]))

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


def test_a_learner_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    def new():
        return Learner(net(), Replay(LossAware(15), count=6), optimizer=lambda w: torch.optim.SGD(w, 0.1), batch_size=5)

    whole, first = new(), new()
    for index in range(3):
        whole.learn(experience(index))
    first.learn(experience())
    for step in first.steps(experience(1)):
        if step.place == 2:
            break
    save(first.state_dict(), tmp_path / "c")
    second = new()
    second.load_state_dict(load(tmp_path / "c"))
    for index in (1, 2):
        second.learn(experience(index))
    assert same(whole.state_dict(), second.state_dict())


def test_a_state_is_a_copy_and_loads_only_into_a_memory_made_alike():
    memory = filled([1.0] * 5)
    state = memory.state_dict()
    told(memory, {0: 9.0})
    memory.add(rows(range(5, 500)))
    assert state["kept"]["losses"].tolist() == [1.0] * 5
    assert sorted(state["kept"]["kept"][0].tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"class 'LossAware'.*'Memory'"):
        Memory(5).load_state_dict(state)


def test_a_capacity_in_bytes_counts_the_bookkeeping():
    memory = LossAware("10kB")
    memory.add({"y": torch.zeros(5000, dtype=torch.long)})
    assert len(memory) == 10_000 // (8 + Hardest.ROW_BYTES)


def test_keeping_draws_nothing_from_any_generator():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    memory = filled(LOSSES)
    memory.add(rows(range(8, 200)))
    assert torch.get_rng_state().equal(before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_text_chooses_it_for_methods_that_tell_losses():
    assert type(build("er:keep=lossaware").memory) is LossAware
    assert type(build("mir:keep=lossaware,memory=50").memory) is LossAware
    with pytest.raises(ValueError, match="lossaware goes by losses, which der does not tell"):
        build("der:keep=lossaware")
