"""Distillation of features holds the direction of what the head sees, and leaves the head itself free."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, shake, trains_plainly
from torch import nn

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import FixMatch, GrowHead, Replay
from everlearn.methods.featdistill import FeatDistill
from everlearn.objective import Viewed, classify, regress
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def taught(make=net, **options):
    """A model that has moved, a copy of what it was, and the method that took it as its teacher."""
    model, method = make(), FeatDistill(**options)
    method.end(model, experience(), classify)
    teacher = copy.deepcopy(model)
    shake(model)
    return model, teacher, method


def added(method, model, batch, objective=classify):
    return method(model, batch, objective).loss - objective(model, batch).loss


def test_what_is_added_is_one_minus_the_cosine_of_the_features():
    model, teacher, method = taught(lambda_=3.0)
    batch = everything(experience(1).train)
    now, before = (m[:-1](batch["x"]) for m in (model, teacher))
    cosine = (now * before).sum(1) / now.norm(dim=1) / before.norm(dim=1)
    expected = 3.0 * (1 - cosine).mean()
    torch.testing.assert_close(added(method, model, batch), expected)
    ours, theirs = (torch.autograd.grad(loss, model[0].weight)[0] for loss in (added(method, model, batch), expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_head_is_free():
    model, _, method = taught()
    loss = added(method, model, everything(experience(1).train))
    assert torch.autograd.grad(loss, model[3].weight, allow_unused=True)[0].abs().max() < 1e-6


def test_only_the_direction_counts():
    model, _, method = taught(make=lambda: nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 4)))
    model.load_state_dict(method.teacher)
    with torch.no_grad():
        model[0].weight *= 3
    assert abs(added(method, model, everything(experience(1).train)).item()) < 1e-5


def test_the_gradient_is_zero_where_the_student_is_the_teacher():
    model, _, method = taught()
    model.load_state_dict(method.teacher)
    gradient = torch.autograd.grad(added(method, model, everything(experience(1).train)), model[0].weight)[0]
    assert gradient.abs().max() < 1e-5


def test_strength_0_is_fine_tuning_bit_for_bit():
    assert trains_plainly(FeatDistill(lambda_=0.0), norm_net)


def test_the_features_move_less_the_stronger_it_is():
    moved = []
    for strength in (0.0, 1.0, 30.0):
        subject = Learner(
            net(), FeatDistill(lambda_=strength), optimizer=partial(SGD, lr=0.05), batch_size=10, epochs=20
        )
        subject.learn(experience(0))
        x = everything(experience(1).train)["x"]
        before = subject.model[:-1](x).detach()
        subject.learn(experience(1))
        moved.append((1 - torch.cosine_similarity(before, subject.model[:-1](x))).mean().item())
    assert moved[0] > moved[1] > moved[2]


def test_a_teacher_stays_as_it_was_and_runs_in_eval_mode():
    subject = Learner(norm_net(), FeatDistill(), optimizer=SGD, batch_size=10)
    subject.learn(experience(0))
    before = copy.deepcopy(subject.method.teacher)
    for _ in subject.steps(experience(1)):
        assert checkpoint.same(before, subject.method.teacher)
        assert all(module.training for module in subject.model.modules())


def test_teacher_and_student_see_the_same_augmentation():
    keys = []

    def looked(batch, key):
        keys.append(key)
        return view()(batch, key)

    model, _, method = taught()
    method(model, everything(experience(1).train), Viewed(classify, looked, 7))
    assert keys == [7, 7]


def test_rows_that_the_rest_of_the_chain_joins_are_not_distilled_and_those_joined_before_are():
    model, _, method = taught()
    batch, old = everything(experience(1).train), everything(experience(2).train)
    both = {name: torch.cat([batch[name], old[name]]) for name in batch}

    def replay():
        memory = Memory(50)
        memory.add(old)
        return Replay(memory, count=20)

    inside = Chain(method, replay())(model, batch, classify).loss - classify(model, both).loss
    torch.testing.assert_close(inside, added(method, model, batch))
    outside = Chain(replay(), method)(model, batch, classify).loss - classify(model, both).loss
    torch.testing.assert_close(outside, added(method, model, both))


def test_a_head_may_grow_and_batches_may_lack_labels():
    subject = Learner(net(2), Chain(GrowHead(), FeatDistill()), optimizer=SGD, batch_size=10)
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(experience(1))
    batch = everything(experience(1).train)
    del batch["y"]
    assert subject.method(subject.model, batch, classify).loss is None


def test_where_the_head_learns_from_two_passes_it_is_refused_rather_than_guessed_at():
    model, _, method = taught()
    batch = everything(experience(1).train)
    batch["y"] = batch["y"].where(torch.arange(len(batch["y"])) > 3, UNLABELED)
    other = FixMatch(threshold=0.0, strong=lambda rows, key: rows)
    with pytest.raises(ValueError, match=r"was called 2 times.*asks the model more than once in front of this one"):
        Chain(method, other)(model, batch, classify)
    assert Chain(other, method)(model, batch, classify).loss.isfinite()


def test_a_regression_has_features_too():
    data = everything(experience().train)
    rows = Columns(x=data["x"], y=data["x"][:, 0])
    subject = Learner(net(1), FeatDistill(), regress, optimizer=SGD, batch_size=10)
    subject.learn(Experience(0, rows, rows))
    subject.learn(Experience(1, rows, rows))
    assert subject.method.teacher
