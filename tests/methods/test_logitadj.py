"""The loss is that of adjusted logits, with the frequencies of the rows so far; the answers are not adjusted."""

import math
from functools import partial

import pytest
import torch
from methods.small import assert_resume_is_exact, experience, growing, learner, net, opposed, trains_plainly
from torch.nn import functional as F

from everlearn.batch import UNLABELED
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EWC, GrowHead, Replay
from everlearn.methods.composition import build
from everlearn.methods.logitadj import LogitAdjust
from everlearn.metrics import Prequential, prequential
from everlearn.objective import Output, classify, regress


def rows(start, y):
    x = torch.randn(len(y), 5, generator=torch.Generator().manual_seed(start))
    return {"x": x, "y": torch.tensor(y), "id": torch.arange(start, start + len(y))}


def frequencies(y, fading, classes=4):
    """The share of each class, a row i rows ago counting fading^i."""
    age = [fading ** (len(y) - 1 - i) for i in range(len(y))]
    return torch.tensor([sum(a for a, k in zip(age, y, strict=True) if k == c) for c in range(classes)]) / sum(age)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_loss_is_the_cross_entropy_of_adjusted_logits(tau):
    method, model = LogitAdjust(tau=tau, fading=0.9), net()
    before = [0, 0, 1, 2, 3, 0]
    method(model, rows(0, before), classify)
    new = rows(9, [1, 0, 0])
    prior = frequencies([*before, 1, 0, 0], 0.9)
    expected = F.cross_entropy(model(new["x"]) + tau * prior.log(), new["y"])
    output = method(model, new, classify)
    torch.testing.assert_close(output.loss, expected)
    assert torch.equal(output.logits, model(new["x"]))


def test_the_gradient_is_that_of_adjusted_logits():
    method, model = LogitAdjust(fading=1.0), net()
    new = rows(0, [1, 0, 0, 2, 3, 3])
    found = torch.autograd.grad(method(model, new, classify).loss, model.parameters())
    loss = F.cross_entropy(model(new["x"]) + frequencies(new["y"].tolist(), 1.0).log(), new["y"])
    for one, other in zip(found, torch.autograd.grad(loss, model.parameters()), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_are_counted_one_by_one_in_whatever_batches_they_come():
    y = [0, 1, 1, 3, 0, 0, 2, 1]
    counted = []
    for size in (1, 3, 8):
        method = LogitAdjust(fading=0.8)
        for part in torch.tensor(y).split(size):
            method(net(), rows(0, part.tolist()), classify)
        counted.append(method.counts)
    torch.testing.assert_close(counted[0], counted[1])
    torch.testing.assert_close(counted[0], counted[2])
    torch.testing.assert_close((counted[0] / counted[0].sum()).float(), frequencies(y, 0.8))


def test_a_class_that_never_came_is_not_pushed_down_and_one_long_gone_hardly():
    method, model = LogitAdjust(fading=0.5), net()
    method(model, rows(0, [1] + [0] * 40), classify)
    method(model, rows(50, [0, 2, 0]), classify).loss.backward()
    moved = model[3].weight.grad.abs().sum(1)
    assert moved[[1, 3]].max() < 1e-6
    assert moved[0] > 1e-3
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_with_all_classes_alike_it_is_plain_training():
    method, model = LogitAdjust(fading=1.0), net()
    new = rows(0, [0, 1, 2, 3] * 3)
    torch.testing.assert_close(method(model, new, classify).loss, classify(model, new).loss)


def test_with_tau_0_it_is_fine_tuning_bit_for_bit():
    assert trains_plainly(LogitAdjust(tau=0.0))


def test_it_resumes_exactly_at_any_step(tmp_path):
    assert_resume_is_exact(
        lambda: learner(LogitAdjust(fading=0.9)), [opposed(i) for i in range(3)], [1, 4, 9, 14], tmp_path
    )


def test_it_grows_with_the_head():
    subject = learner(Chain(GrowHead(), LogitAdjust()), net(2))
    for each in growing():
        subject.learn(each)
    assert len(subject.method.methods[1].counts) == 4


def test_rows_without_a_label_are_not_counted_and_add_nothing():
    method, model = LogitAdjust(), net()
    some, told = rows(0, [1, UNLABELED, 0]), torch.tensor([0, 2])
    expected = F.cross_entropy(model(some["x"])[told] + frequencies([1, 0], 0.999).log(), some["y"][told])
    torch.testing.assert_close(method(model, some, classify).loss, expected)
    assert method.counts.sum() == pytest.approx(1.999)


def test_a_batch_without_a_loss_is_left_alone():
    method = LogitAdjust()
    assert method(net(), rows(0, [1]), lambda model, batch: Output(None, classify(model, batch).logits)).loss is None
    assert len(method.counts) == 0


def test_a_method_that_follows_keeps_its_part_of_the_loss():
    model, new = net(), rows(0, [0, 1, 1])
    other = EWC(lambda_=10.0)
    other.anchor = {name: weight.detach() + 1 for name, weight in model.named_parameters()}
    other.importance = {name: torch.ones_like(weight) for name, weight in model.named_parameters()}
    alone = LogitAdjust()(model, new, classify).loss
    penalty = 5.0 * sum(weight.numel() for weight in model.parameters())
    torch.testing.assert_close(Chain(LogitAdjust(), other)(model, new, classify).loss, alone + penalty)


def test_behind_a_replay_the_old_rows_count_and_are_adjusted_too():
    chain, model = Chain(Replay(Memory(100), count=4), LogitAdjust(fading=1.0)), net()
    chain(model, rows(0, [3, 3, 3, 3]), classify)
    chain(model, rows(10, [0, 1]), classify)
    assert chain.methods[1].counts.tolist() == [1, 1, 0, 8]


def test_what_it_cannot_adjust_is_refused():
    chain = Chain(LogitAdjust(), Replay(Memory(100), count=4))
    chain(net(), rows(0, [3, 3, 3, 3]), classify)
    with pytest.raises(ValueError, match=r"4 rows were joined behind logitadj.*er\+logitadj"):
        chain(net(), rows(9, [3, 3, 3, 3]), classify)
    with pytest.raises(ValueError, match="heads by the column 'task' never compete"):
        LogitAdjust()(net(), rows(0, [0, 1]) | {"task": torch.zeros(2).long()}, classify)
    with pytest.raises(ValueError, match="logitadj classifies"):
        LogitAdjust()(net(1), rows(0, [0, 1]) | {"y": torch.zeros(2)}, regress)
    for settings in ({"tau": -1.0}, {"fading": 0.0}, {"fading": 1.5}, {"tau": math.nan}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            LogitAdjust(**settings)
    with pytest.raises(ValueError, match=r"er joins rows whose classes logitadj must see; put it first: er\+logitadj"):
        build("logitadj+er")
    with pytest.raises(ValueError, match="erace has a loss of its own"):
        build("erace+logitadj")


def test_on_a_stream_with_rare_classes_the_worst_class_is_answered_better():
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.9, 0.07, 0.03]), 3000, replacement=True, generator=generator)
    x = 1.2 * F.one_hot(y, 5).float() + torch.randn(3000, 5, generator=generator)
    stream = [{"x": a, "y": b} for a, b in zip(x.split(10), y.split(10), strict=True)]
    worst = []
    for tau in (0.0, 1.0):
        subject = Learner(net(3), LogitAdjust(tau=tau), optimizer=partial(torch.optim.SGD, lr=0.1))
        score = prequential(subject.predict, subject.observe, stream, Prequential(window=2000))
        worst.append(score.reading()["windowed_worst_recall"])
    assert worst[1] > worst[0] + 0.3


def test_an_experience_is_learned_like_a_stream():
    subject = learner(LogitAdjust())
    subject.learn(experience())
    assert subject.evaluate(experience().test).count == 20
