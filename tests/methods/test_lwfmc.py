"""LwF.MC asks about each class by itself: a label says it of the new classes, the teacher of the old ones."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, shake
from torch import nn

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EWC, GrowHead, LwF, Replay
from everlearn.methods.lwfmc import LwFMC
from everlearn.objective import classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def labelled(index, *classes, count=20):
    """Rows of these classes."""
    data = everything(experience(index, count).train)
    data["y"] = torch.tensor(classes)[data["y"] % len(classes)]
    return Experience(index, Columns(data), Columns(data), classes)


def taught(old, new, outputs=5, **options):
    """A model, its teacher, and a method that has learned the `old` classes and begun the `new` ones."""
    model, method = net(outputs), LwFMC(**options)
    method.begin(model, labelled(0, *old), classify)
    method.end(model, labelled(0, *old), classify)
    teacher = copy.deepcopy(model)
    shake(model)
    method.begin(model, labelled(1, *new), classify)
    return model, teacher, method


def by_hand(model, teacher, batch, old, new, *, by=1.0):
    """The equation, row by row and class by class."""
    total = 0.0
    for x, y in zip(batch["x"], batch["y"].tolist(), strict=True):
        s, q = model(x[None])[0].sigmoid(), (teacher(x[None])[0] / by).sigmoid().detach()
        for c in sorted({*old, *new}):
            t = q[c] if c in old and c not in new else float(y == c)
            total = total - t * s[c].log() - (1 - t) * (1 - s[c]).log()
    return total / len(batch["y"])


@pytest.mark.parametrize("by", [1.0, 2.0])
@pytest.mark.parametrize(("old", "new"), [((0, 1), (2, 3)), ((3, 0), (4,)), ((0, 1), (1, 2))])
def test_the_loss_is_the_definition(old, new, by):
    model, teacher, method = taught(old, new, T=by)
    batch = everything(labelled(1, *new).train)
    loss, expected = method(model, batch, classify).loss, by_hand(model, teacher, batch, old, new, by=by)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(each, list(model.parameters())) for each in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_first_experience_has_no_teacher():
    model, method = net(5), LwFMC()
    method.begin(model, labelled(0, 1, 2), classify)
    batch = everything(labelled(0, 1, 2).train)
    torch.testing.assert_close(method(model, batch, classify).loss, by_hand(model, model, batch, (), (1, 2)))


def test_classes_that_have_not_come_yet_are_left_alone():
    model, _, method = taught((0, 1), (2, 3))
    loss = method(model, everything(labelled(1, 2, 3).train), classify).loss
    weight, bias = torch.autograd.grad(loss, [model[3].weight, model[3].bias])
    assert not weight[4].any()
    assert not bias[4].any()
    assert weight[:4].abs().amin(1).min() >= 0
    assert (weight[:4].abs().amax(1) > 0).all()


def test_old_outputs_have_no_gradient_where_the_student_is_the_teacher():
    model, _, method = taught((0, 1), (2, 3))
    method.teacher = {name: value.clone() for name, value in model.state_dict().items()}
    loss = method(model, everything(labelled(1, 2, 3).train), classify).loss
    gradient = torch.autograd.grad(loss, model[3].weight)[0]
    assert gradient[:2].abs().max() < 1e-6
    assert gradient[2:4].abs().max() > 1e-3


def test_rows_without_a_label_count_for_nothing():
    model, _, method = taught((0, 1), (2, 3))
    batch = everything(labelled(1, 2, 3).train)
    some = {name: column[:12] for name, column in batch.items()}
    batch["y"][12:] = UNLABELED
    torch.testing.assert_close(method(model, batch, classify).loss, method(model, some, classify).loss)
    del batch["y"]
    assert method(model, batch, classify).loss is None


def test_a_stream_without_borders_asks_about_all_outputs():
    model, method = net(4), LwFMC()
    batch = everything(labelled(0, 0, 1).train)
    torch.testing.assert_close(method(model, batch, classify).loss, by_hand(model, model, batch, (), (0, 1, 2, 3)))


def test_a_teacher_stays_as_it_was_and_its_normalisation_too():
    subject = Learner(norm_net(), LwFMC(), optimizer=SGD, batch_size=10)
    subject.learn(labelled(0, 0, 1))
    before = copy.deepcopy(subject.method.teacher)
    for _ in subject.steps(labelled(1, 2, 3)):
        assert checkpoint.same(before, subject.method.teacher)


def test_the_teacher_keeps_its_head_where_that_of_the_student_grows():
    subject = Learner(net(2), Chain(GrowHead(), LwFMC()), optimizer=SGD, batch_size=10)
    subject.learn(labelled(0, 0, 1))
    for _ in subject.steps(labelled(1, 2, 3)):
        assert subject.method.methods[1].teacher["3.weight"].shape == (2, 6)
    assert subject.method.methods[1].learned == [0, 1, 2, 3]


def test_what_follows_in_the_chain_keeps_its_part_of_the_loss():
    model, teacher, method = taught((0, 1), (2, 3))
    held = EWC(lambda_=5.0, rows=None)
    held.end(teacher, labelled(0, 0, 1), classify)
    batch = everything(labelled(1, 2, 3).train)
    pull = held(model, batch, classify).loss - classify(model, batch).loss
    assert pull > 0.01
    behind, before = (chain(model, batch, classify).loss for chain in (Chain(method, held), Chain(held, method)))
    torch.testing.assert_close(behind, method(model, batch, classify).loss + pull)
    torch.testing.assert_close(before, behind)


def test_rows_that_are_joined_behind_its_back_are_refused():
    model, _, method = taught((0, 1), (2, 3))
    memory = Memory(10)
    memory.add(everything(labelled(0, 0, 1).train))
    batch = everything(labelled(1, 2, 3).train)
    with pytest.raises(ValueError, match=r"made 30 rows of 20, .* put the method that joins rows before it"):
        Chain(method, Replay(memory, count=10))(model, batch, classify)
    assert Chain(Replay(memory, count=10), method)(model, batch, classify).loss.isfinite()


def test_it_composes_with_what_distills_behind_it():
    subject = Learner(net(5), Chain(LwFMC(), LwF()), optimizer=SGD, batch_size=10)
    subject.learn(labelled(0, 0, 1))
    subject.learn(labelled(1, 2, 3))
    assert subject.predict(everything(labelled(1, 2, 3).train)).isfinite().all()


def test_tasks_and_targets_that_are_no_classes_are_refused_at_the_border():
    subject = Learner(net(), LwFMC(), optimizer=SGD)
    rows = experience().train
    with pytest.raises(ValueError, match=r"experience 0 is of task 3, but here one head .* take by_class"):
        subject.learn(Experience(0, rows, rows, (0, 1), task=3))
    data = everything(rows)
    for y, kind in ((data["y"].float(), "float32"), (data["y"][:, None], r"shape \(20, 1\)")):
        wrong = Columns(x=data["x"], y=y)
        with pytest.raises(ValueError, match=f"int64 of shape .*{kind}"):
            Learner(nn.Linear(5, 4), LwFMC(), optimizer=SGD).learn(Experience(0, wrong, wrong))
