"""GEM turns a gradient by as little as makes it agree with the old rows of every experience."""

from functools import partial

import pytest
import torch
from methods import small
from methods.small import (
    SGD,
    drawn,
    everything,
    experience,
    heads,
    net,
    norm_net,
    of_task,
    opposed,
    rows,
    running_statistics,
    trains_plainly,
)
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.gem import GEM
from everlearn.models.gradients import agreeing, get_gradient, gradient_at
from everlearn.models.views import snapshot
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

learner = partial(small.learner, epochs=3)


class Watch(GEM):
    """Notes the gradients before and after, and what they were held against."""

    seen = ()

    def before_step(self, model):
        before, references = get_gradient(model), self.references
        super().before_step(model)
        self.seen = (*self.seen, (before, get_gradient(model), references))


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_it_is_the_dual_problem_written_down(gamma):
    """A plain loop that keeps all rows of each experience, and takes one gradient of each."""
    subject, model, turned = learner(GEM(Memory(100), gamma)), net(), 0
    for index in range(4):
        subject.learn(opposed(index))
        for batch in drawn(opposed(index), epochs=3):
            g = gradient_at(model, batch, classify)
            if index:
                old = [everything(opposed(past).train) for past in range(index)]
                after = agreeing(g, torch.stack([gradient_at(model, each, classify) for each in old]), gamma)
                turned, g = turned + (not torch.equal(after, g)), after
            with torch.no_grad():
                nn.utils.vector_to_parameters(
                    nn.utils.parameters_to_vector(model.parameters()) - 0.1 * g, model.parameters()
                )
    assert turned > 3
    for name, weight in snapshot(model).items():
        torch.testing.assert_close(snapshot(subject.model)[name], weight, rtol=1e-3, atol=1e-5)


def test_a_turned_step_agrees_with_every_experience_and_any_other_is_left_alone():
    subject = learner(Watch(Memory(100), gamma=0.0))
    for index in range(4):
        subject.learn(opposed(index))
    held = [each for each in subject.method.seen if each[2] is not None]
    assert {len(references) for _, _, references in held} == {1, 2, 3}
    against = [bool((references @ before < 0).any()) for before, _, references in held]
    assert 3 < sum(against) < len(against)
    for (before, after, references), turned in zip(held, against, strict=True):
        assert torch.equal(before, after) != turned
        assert (references @ after).min() > -1e-2  # the 1e-3 on the diagonal lets this much through


def test_a_margin_lowers_the_loss_of_old_rows_more():
    after = {}
    for gamma in (0.0, 1.0):
        subject = learner(Watch(Memory(100), gamma))
        for index in range(2):
            subject.learn(opposed(index))
        _, turned, references = next(s for s in subject.method.seen if s[2] is not None and s[2] @ s[0] < 0)
        after[gamma] = (references @ turned).item()
    assert after[1.0] > after[0.0] + 0.01


@pytest.mark.parametrize("model", [net, norm_net])
def test_without_constraints_it_is_plain_training_bit_for_bit(model):
    assert trains_plainly(GEM(Memory(30), constraints=0), model, opposed)


def test_old_rows_enter_no_running_statistics_and_draw_no_dropout():
    method = GEM(Memory(30))
    assert checkpoint.same(running_statistics(method), running_statistics(Naive()))
    assert len(method.memory) == 20


@pytest.mark.parametrize("kind", [Memory, Balanced])
def test_of_many_experiences_each_step_is_held_to_some_drawn_anew(kind):
    subject = learner(Watch(kind(12), constraints=3), epochs=1, batch_size=4)
    for index in range(40):
        data = rows(4, seed=index)
        subject.learn(Experience(index, data, data, (0, 1, 2, 3)))
        assert len(subject.method.memory) == min(12, 4 * (index + 1))
    counts = [len(references) for _, _, references in subject.method.seen if references is not None]
    assert set(counts) == {1, 2, 3}
    drawn = set()
    for subject.method.steps in range(50):
        chosen = [subject.method.memory.take(slots)["experience"] for slots in subject.method._held()]
        assert all(len(set(one.tolist())) == 1 for one in chosen)
        drawn |= {int(one[0]) for one in chosen}
    assert drawn == set(subject.method.memory.column("experience").tolist())


def test_each_experience_offers_no_more_than_its_rows():
    subject = learner(GEM(Memory(100), rows=6))
    for index in range(3):
        subject.learn(opposed(index))
    assert subject.method.memory.column("experience").bincount().tolist() == [6, 6, 6]


def test_the_objective_sees_the_rows_as_they_were():
    def watching(model, batch):
        assert batch.keys() <= {"x", "y", "weight", "id"}
        return classify(model, batch)

    subject = Learner(net(), GEM(Memory(30)), watching, optimizer=SGD, batch_size=8)
    for index in range(3):
        subject.learn(opposed(index, weight=torch.ones(20)))


def test_each_task_is_held_through_its_own_head():
    model = heads(tasks=4)
    subject = Learner(model, Watch(Memory(60)), classify_by_task, optimizer=SGD, batch_size=8, epochs=3)
    for index in range(3):
        subject.learn(of_task(index, opposed(index, classes=2).train))
    *_, (_, _, references) = subject.method.seen
    body = sum(weight.numel() for weight in model.backbone.parameters())
    used = references[:, body:].reshape(2, 4, -1).any(-1)
    assert used.tolist() == [[True, False, False, False], [False, True, False, False]]
    assert model.heads[3].weight.grad is None


def test_a_head_may_grow():
    subject = learner(Chain(GrowHead(), GEM(Memory(30))), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.model[3].weight.shape == (4, 6)


def test_a_step_in_pieces_is_the_step_as_a_whole():
    whole, pieces = learner(GEM(Memory(100))), learner(GEM(Memory(100)), accumulate=3)
    for each in (whole, pieces):
        for index in range(3):
            each.learn(opposed(index))
    for name, value in snapshot(whole.model).items():
        torch.testing.assert_close(snapshot(pieces.model)[name], value, rtol=1e-3, atol=1e-5)


def test_it_forgets_less_than_plain_training():
    scores = {}
    for name, method in {"plain": Naive(), "held": GEM(Memory(60), gamma=1.0)}.items():
        subject = learner(method, epochs=20)
        for index in range(3):
            subject.learn(opposed(index))
        scores[name] = classify(subject.model, everything(opposed(0).train)).loss.item()
    assert scores["held"] < 0.85 * scores["plain"]
