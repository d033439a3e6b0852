"""EATA: which rows it learns from, how much each weighs, and the elastic weight consolidation in it."""

from functools import partial
from math import log

import torch
from methods.small import everything
from methods.targets import batch_norms, layer_norms, learner, source, target, told
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.method import Chain
from everlearn.methods import EATA, EWC
from everlearn.models import snapshot
from everlearn.models.fisher import fisher
from everlearn.models.spread import entropies
from everlearn.objective import classify

PLAIN = partial(torch.optim.SGD, lr=0.1)


def identity(classes=4):
    """A model whose logits are nearly its inputs: a norm over all features of rows that are normal already."""
    return nn.Sequential(nn.LayerNorm(classes))


def sure(label, by, classes=4):
    return by * F.one_hot(torch.tensor(label), classes).float()


def loss(method, model, x):
    return method.loss(model, {"x": x}, classify, classify).loss


def test_the_loss_is_that_of_reliable_rows_each_by_its_weight():
    method, model = EATA(E0=0.5, eps=9.0), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[2].weight.mul_(3)
        h = entropies(model(x))
    edge = 0.5 * log(4)
    chosen = h < edge
    assert 0 < int(chosen.sum()) < 30
    expected = ((edge - h[chosen]).exp() * h[chosen]).mean()
    torch.testing.assert_close(loss(method, model, x).detach(), expected)


def test_no_reliable_row_is_no_step_though_statistics_follow():
    subject = learner(EATA(E0=0.0))
    before = snapshot(subject.model)
    assert subject.observe({"x": torch.randn(8, 5) + 2}).loss is None
    after = snapshot(subject.model)
    assert all(
        torch.equal(after[key], before[key]) for key in after if not key.startswith(("2.r", "2.n", "7.r", "7.n"))
    )
    assert not torch.equal(after["2.running_mean"], before["2.running_mean"])


def test_rows_that_say_what_was_said_already_are_left_out():
    method, model = EATA(E0=0.9, eps=1.4), identity()
    first = torch.stack([sure(0, 9.0)] * 5)
    assert loss(method, model, first) is not None, "nothing has been said before"
    assert loss(method, model, first) is None
    assert loss(method, model, torch.stack([sure(1, 9.0)] * 5)) is not None
    torch.testing.assert_close(method.mean.argsort(descending=True)[:2], torch.tensor([0, 1]))


def test_a_collapse_is_seen_though_no_row_says_anything_new_any_more():
    subject = learner(EATA(E0=0.9, eps=1.4), identity(), optimizer=PLAIN, view=None)
    x = torch.stack([sure(label % 4, 9.0) for label in range(8)])
    for _ in range(10):
        subject.observe({"x": x})
    w0 = subject.method.source
    with torch.no_grad():
        subject.model[0].bias[0] += 60  # all rows are called the same
    for _ in range(30):
        subject.observe({"x": x})
    assert int(subject.method.spread.alarms) == int(subject.method.resets) == 1
    assert float(subject.model[0].bias.detach()[0]) < 1
    assert float(w0["0.bias"][0]) == 0


def test_the_moving_average_is_of_the_mean_prediction_over_chosen_rows():
    method, model = EATA(E0=0.9, eps=9.0), identity()
    p = []
    for label in (0, 1):
        x = torch.stack([sure(label, 9.0)] * 3)
        loss(method, model, x)
        p.append(model(x).detach().softmax(1).mean(0))
        torch.testing.assert_close(method.mean, p[0] if label == 0 else 0.9 * p[0] + 0.1 * p[1])  # (5) of the paper


def test_it_contains_ewc():
    """The same steps as EWC in front of what is left of it."""
    ends = []
    for method in (EATA(E0=2.0, eps=9.0, beta=3.0), Chain(EWC(6.0, rows=None), EATA(E0=2.0, eps=9.0, beta=0.0))):
        subject = learner(method, layer_norms(), optimizer=PLAIN, view=None)
        subject.remember(source())
        told(subject)
        ends.append(snapshot(subject.model))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key])
    free = learner(EATA(E0=2.0, eps=9.0), layer_norms(), optimizer=PLAIN, view=None)
    told(free)
    assert not checkpoint.same(ends[0], snapshot(free.model))


def test_the_fisher_information_is_that_of_the_norms_on_rows_with_labels():
    subject = learner(EATA(), batch_norms(), view=None)
    subject.remember(source())
    known = fisher(subject.model, [everything(source().train)], classify)
    assert subject.method.importance.keys() == {"2.weight", "2.bias", "7.weight", "7.bias"}
    for name, value in subject.method.importance.items():
        torch.testing.assert_close(value, known[name])
    subject.learn(target())
    for name, value in subject.method.importance.items():
        torch.testing.assert_close(value, known[name], msg="rows without labels have no part in it")


def test_a_strong_beta_holds_w0():
    far = []
    for beta in (0.0, 100.0):
        subject = learner(EATA(E0=2.0, eps=9.0, beta=beta), layer_norms(), optimizer=partial(torch.optim.SGD, lr=0.01))
        subject.remember(source())
        told(subject, count=30)
        w = subject.method.source
        far.append(sum(float((v - w[k]).square().sum()) for k, v in snapshot(subject.model).items() if k in w))
    assert far[1] < 0.5 * far[0]
