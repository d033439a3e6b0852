"""An experience beside a labelled reference, and methods that know how far they are."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods import Replay
from everlearn.methods.paced import Paced
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


@dataclass
class Diary(Paced):
    """Notes what each step sees."""

    seen: list = field(default_factory=list, init=False)
    at: list = field(default_factory=list, init=False)

    def loss(self, model, batch, objective, rest):
        self.seen.append((batch["id"].tolist(), batch["y"].tolist()))
        self.at.append(self.progress)
        return rest(model, batch)


def rows(count, seed, labels=True):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Columns(x=x, y=torch.arange(count) % 3) if labels else Columns(x=x)


def experience(**options):
    return Experience(0, rows(20, 0, labels=False), rows(3, 2), reference=rows(11, 1), **options)


def learner(method=None, **options):
    torch.manual_seed(0)
    return Learner(nn.Linear(4, 3), method or Diary(), optimizer=SGD, **{"batch_size": 6, "epochs": 3} | options)


def test_rows_without_labels_come_first_and_rows_of_the_reference_follow():
    subject = learner(reference_size=4)
    subject.learn(experience())
    for step, (ids, labels) in enumerate(subject.method.seen):
        new = 2 if step % 4 == 3 else 6
        assert labels[:new] == [UNLABELED] * new
        assert all(label >= 0 for label in labels[new:])
        assert len(labels) == new + 4
        assert len(set(ids)) == len(ids)
        assert max(ids[:new]) < 20 <= 1 << 39 <= min(ids[new:])


def test_each_pass_over_the_reference_has_an_order_of_its_own_and_repeats_no_row():
    subject = learner(reference_size=5)
    subject.learn(experience())
    passes = [subject.method.seen[step][0][-5:] + subject.method.seen[step + 1][0][-5:] for step in (0, 2, 4)]
    assert all(len(set(ids)) == 10 for ids in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_reference_smaller_than_a_batch_comes_whole_each_time():
    subject = learner()
    subject.learn(Experience(0, rows(20, 0, labels=False), rows(3, 2), reference=rows(2, 1)))
    assert all(len([y for y in labels if y >= 0]) == 2 for _, labels in subject.method.seen)


@pytest.mark.parametrize("pause", [1, 4, 7, 11])
def test_resume_beside_a_reference_is_exact(pause, tmp_path):
    whole = learner(reference_size=4)
    whole.learn(experience())
    first = learner(reference_size=4)
    for step in first.steps(experience()):
        if step.number == pause:
            break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learner(reference_size=4)
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(experience())
    assert checkpoint.same(whole.state_dict(), second.state_dict())


def test_pieces_of_a_batch_have_their_share_of_the_reference():
    subject = learner(accumulate=2, reference_size=4, epochs=1)
    subject.learn(experience())
    for _, labels in subject.method.seen[:6]:
        assert [sum(y < 0 for y in labels), sum(y >= 0 for y in labels)] == [3, 2]


def test_progress_goes_from_0_to_1_in_each_experience():
    subject = learner(epochs=2)
    for index in range(2):
        subject.learn(Experience(index, rows(12, index), rows(3, 2)))
    assert subject.method.at == [0, 0.25, 0.5, 0.75] * 2
    assert subject.method.progress == 1


def test_without_a_number_of_steps_a_schedule_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"how many steps.*Experience\(\.\.\., steps=\.\.\.\)"):
        _ = Paced().progress


def test_a_memory_takes_the_rows_of_the_reference_and_leaves_those_without_a_label():
    memory = Memory(100)
    subject = learner(Chain(Replay(memory, count=4)))
    subject.learn(experience())
    assert len(memory) == 11
    assert int(memory.rows()["y"].min()) >= 0


def test_what_is_learned_is_what_the_joined_batch_says():
    subject, by_hand = learner(Method(), epochs=1, batch_size=20, reference_size=11), nn.Linear(4, 3)
    by_hand.load_state_dict(subject.model.state_dict())
    subject.learn(experience())
    known = rows(11, 1).take(torch.arange(11))
    nn.functional.cross_entropy(by_hand(known["x"]), known["y"]).backward()
    torch.testing.assert_close(subject.model.weight, by_hand.weight - 0.1 * by_hand.weight.grad)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (rows(0, 1), "no rows"),
        (rows(4, 1, labels=False), "no label"),
        (Columns(x=torch.zeros(4, 5), y=torch.zeros(4, dtype=torch.int64)), "shapes"),
        (Columns(x=torch.zeros(4, 4), y=torch.zeros(4)), r"numbers \(torch.float32\)"),
        (Columns(z=torch.zeros(4, 4), y=torch.zeros(4, dtype=torch.int64)), "columns"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused_before_anything_is_learned(reference, message):
    subject = learner()
    with pytest.raises(ValueError, match=message):
        subject.learn(Experience(0, rows(20, 0, labels=False), rows(3, 2), reference=reference))
    assert not subject.begun
    assert subject.number == 0


def test_the_size_of_the_reference_is_a_setting_that_resume_checks():
    with pytest.raises(ValueError, match="reference_size"):
        learner(reference_size=3).load_state_dict(learner(reference_size=4).state_dict())
    with pytest.raises(ValueError, match="reference_size"):
        learner(reference_size=0)


@pytest.mark.parametrize("beside", [None, rows(7, 1)])
def test_an_experience_goes_on_beside_the_reference_that_it_began_with(beside):
    first, second = learner(), learner()
    next(iter(first.steps(experience())))
    second.load_state_dict(first.state_dict())
    other = Experience(0, rows(20, 0, labels=False), rows(3, 2), reference=beside)
    with pytest.raises(ValueError, match=f"began beside 11 rows of a reference, but there are {len(beside or ())} now"):
        second.learn(other)
    second.learn(experience())
    assert not second.begun


def test_a_state_that_does_not_say_how_long_its_reference_was_goes_on():
    first, second = learner(), learner()
    next(iter(first.steps(experience())))
    state = first.state_dict()
    del state["place"]["beside"]
    second.load_state_dict(state)
    second.learn(experience())
    assert second.number == 12


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_last_batch_of_one_row_is_no_single_row_to_a_batch_normalisation_beside_a_reference(accumulate):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    subject = Learner(model, optimizer=SGD, batch_size=6, accumulate=accumulate)
    alone = Experience(0, rows(19, 0), rows(3, 2))
    with pytest.raises(ValueError, match="leave a batch of one row"):
        subject.learn(alone)
    subject.learn(Experience(0, rows(19, 0, labels=False), rows(3, 2), reference=rows(11, 1)))
    assert subject.number == 4
    few = Experience(1, rows(19, 0, labels=False), rows(3, 2), reference=rows(1, 1))
    if accumulate == 2:
        with pytest.raises(ValueError, match="leave a batch of one row"):
            subject.learn(few)
    else:
        subject.learn(few)
