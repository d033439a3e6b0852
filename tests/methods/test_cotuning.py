"""Co-Tuning teaches the pretrained head what it said of a class before, on average."""

import copy

import pytest
import torch
from methods.small import everything, experience, learner, net, norm_net, rows, trains_plainly
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import CoTuning, GrowHead, Replay
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience


def pretrained(outputs=7):
    torch.manual_seed(3)
    return nn.Linear(6, outputs)


def said(source, model, x, temperature=1.0):
    return (source(model[:3](x)) / temperature).softmax(1).detach()


def test_the_relation_is_the_mean_answer_of_the_pretrained_head_about_each_class():
    """The oracle: a loop over classes."""
    source, model, data = pretrained(), net(dropout=0.5).train(), experience()
    method = CoTuning(source=source, temperature=2.0)
    method.begin(model, data, classify)
    x, y = data.train.column("x"), data.train.column("y")
    model.eval()
    for label in range(4):
        expected = said(source, model, x[y == label], 2.0).mean(0)
        torch.testing.assert_close(method.relation[label], expected)
    torch.testing.assert_close(method.relation.sum(1), torch.ones(4))


def test_the_lesson_is_the_cross_entropy_of_the_pretrained_head_with_what_it_says_of_the_class():
    source, model = pretrained(), net()
    method = CoTuning(lambda_=2.3, source=source)
    method.begin(model, experience(), classify)
    batch = everything(rows(9, seed=7))
    batch["y"][::4] = UNLABELED
    found, known = method(model, batch, classify).loss, batch["y"] >= 0
    answers = source(model[:3](batch["x"]))[known]
    lesson = F.cross_entropy(answers, method.relation[batch["y"][known]])
    torch.testing.assert_close(found, classify(model, batch).loss + 2.3 * lesson)
    (grad,) = torch.autograd.grad(found, [method.source.weight], retain_graph=True)
    torch.testing.assert_close(grad, 2.3 * torch.autograd.grad(lesson, [source.weight])[0])


def test_in_a_head_that_grew_the_outputs_of_other_classes_are_the_source():
    data = rows(20, classes=2)
    shifted = Columns(x=data.column("x"), y=data.column("y") + 3)
    for order in (lambda a, b: (a, b), lambda a, b: (b, a)):
        method, model = CoTuning(), net(3)
        before = snapshot(model)
        Chain(*order(GrowHead(), method)).begin(model, Experience(0, shifted, shifted, (3, 4)), classify)
        assert method.others == [0, 1, 2]
        assert model[3].out_features == 5
        x = shifted.column("x")[shifted.column("y") == 4]
        old = F.linear(model[:3](x), before["3.weight"], before["3.bias"]).softmax(1).mean(0)
        torch.testing.assert_close(method.relation[4], old.detach())
        assert not method.relation[:3].any()


def test_the_head_that_was_given_stays_and_its_copy_learns_along():
    source = pretrained()
    before = copy.deepcopy(source.state_dict())
    subject = learner(CoTuning(source=source))
    subject.learn(experience())
    assert checkpoint.same(source.state_dict(), before)
    assert not torch.equal(subject.method.source.weight, source.weight)


def test_a_class_that_comes_later_has_a_relation_of_its_own_beside_the_earlier_ones():
    subject = learner(CoTuning(source=pretrained()))
    subject.learn(experience(0, classes=(0, 1)))
    before = subject.method.relation.clone()
    data = rows(20, classes=2)
    later = Columns(x=data.column("x"), y=data.column("y") + 2)
    subject.learn(Experience(1, later, later, (2, 3)))
    assert torch.equal(subject.method.relation[:2], before)
    torch.testing.assert_close(subject.method.relation.sum(1), torch.ones(4))


def test_rows_of_classes_without_a_relation_and_joined_rows_have_no_lesson():
    model, method = net(), CoTuning(source=pretrained())
    method.begin(model, experience(classes=(0, 1)), classify)
    batch = everything(rows(8))
    batch["y"].fill_(3)
    torch.testing.assert_close(method(model, batch, classify).loss, classify(model, batch).loss)
    memory = Memory(20)
    memory.add(everything(rows(10, seed=3)))
    assert Chain(method, Replay(memory, count=5))(model, batch, classify).loss.isfinite()


@pytest.mark.parametrize("model", [net, norm_net])
def test_without_strength_it_is_plain_fine_tuning(model):
    width = 6 if model is net else 9
    torch.manual_seed(0)
    assert trains_plainly(CoTuning(lambda_=0.0, source=nn.Linear(width, 3)), model)


def test_resume_is_exact(tmp_path):
    def make():
        return learner(CoTuning(source=pretrained()), net(dropout=0.2))

    whole = make()
    torch.manual_seed(1)
    for index in range(2):
        for step in whole.steps(experience(index)):
            checkpoint.save(whole.state_dict(), tmp_path / str(step.number))
    for number in (1, 5, 8):
        second = make()
        second.load_state_dict(checkpoint.load(tmp_path / str(number)))
        for index in range(second.experience, 2):
            second.learn(experience(index))
        assert checkpoint.same(whole.state_dict(), second.state_dict())


def test_batches_without_labels_and_experiences_without_any_teach_nothing():
    model, method = net(), CoTuning(source=pretrained())
    data = Columns(x=torch.randn(6, 5))
    method.begin(model, Experience(0, data, data), classify)
    assert not len(method.relation)
    method.begin(model, experience(), classify)
    assert method(model, {"x": torch.zeros(2, 5)}, classify).loss is None


def test_what_it_cannot_begin_with_is_refused():
    with pytest.raises(ValueError, match="cotuning needs the pretrained head: give it as it was before"):
        CoTuning().begin(net(), experience(), classify)
    with pytest.raises(ValueError, match="the source reads 5 features, but the head 6"):
        CoTuning(source=nn.Linear(5, 3)).begin(net(), experience(), classify)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        CoTuning(temperature=0.0)


def test_on_the_command_line():
    assert build("cotuning:lambda=1").lambda_ == 1


def test_classes_that_only_the_reference_has_labels_of_are_met():
    source, data = nn.Linear(6, 3), rows(20)
    alone, beside = CoTuning(source=source), CoTuning(source=source)
    alone.begin(net(), experience(), classify)
    known = experience().train
    unknown = Columns(x=data.column("x"))
    beside.begin(net(), Experience(0, unknown, known, (0, 1, 2, 3), reference=known), classify)
    assert torch.equal(alone.relation, beside.relation)
