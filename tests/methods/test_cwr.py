"""Rows of the head that learned at different times are put on one scale, and the body does not move."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, weights
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method
from everlearn.methods.cwr import CWR
from everlearn.methods.derpp import DERpp
from everlearn.methods.growth import GrowHead
from everlearn.models import MultiHead, snapshot
from everlearn.objective import classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)
HEAVY = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
GROUPS = ((0, 1), (2, 3), (1, 2), (0, 3))


def arrival(index, counts=(12, 8)):
    """Rows of two classes; each class comes twice over the four arrivals."""
    random = torch.Generator().manual_seed(index)
    y = torch.tensor([label for label, count in zip(GROUPS[index], counts, strict=True) for _ in range(count)])
    x = torch.randn(len(y), 5, generator=random) + 2 * torch.eye(5)[y]
    rows = Columns(x=x, y=y)
    return Experience(index, rows, rows, GROUPS[index])


def learner(model=None, method=None, optimizer=SGD, **options):
    return Learner(model or net(), method or CWR(), optimizer=optimizer, **({"epochs": 3, "batch_size": 8} | options))


def by_hand(count):
    """Algorithm 1 of the paper, class by class, in a plain loop."""
    model = net()
    head = model[3]
    cw, past = {}, {}
    for index in range(count):
        e = arrival(index)
        y = everything(e.train)["y"].tolist()
        now = {label: y.count(label) for label in set(y)}
        with torch.no_grad():
            for label in range(4):
                w, b = cw.get(label, (torch.zeros(6), torch.zeros(()))) if label in now else (torch.zeros(6), 0.0)
                head.weight[label], head.bias[label] = w, b
        optimizer = SGD(model.parameters() if index == 0 else head.parameters())
        for epoch in range(3):
            for batch in batches(e.train, epoch_order(20, 0, index, epoch), 8):
                optimizer.zero_grad()
                classify(model, batch).loss.backward()
                optimizer.step()
        with torch.no_grad():
            mean_w = torch.stack([head.weight[label] for label in now]).mean()
            mean_b = torch.stack([head.bias[label] for label in now]).mean()
            for label, rows in now.items():
                share = (past.get(label, 0) / rows) ** 0.5
                w, b = cw.get(label, (torch.zeros(6), torch.zeros(())))
                new_w = (w * share + head.weight[label] - mean_w) / (share + 1)
                new_b = (b * share + head.bias[label] - mean_b) / (share + 1)
                cw[label], past[label] = (new_w.clone(), new_b.clone()), past.get(label, 0) + rows
            for label in range(4):
                w, b = cw.get(label, (torch.zeros(6), torch.zeros(())))
                head.weight[label], head.bias[label] = w, b
    return model


@pytest.mark.parametrize("count", [1, 2, 4])
def test_it_is_the_algorithm_of_the_paper(count):
    subject = learner()
    for index in range(count):
        subject.learn(arrival(index))
    for name, weight in by_hand(count).named_parameters():
        torch.testing.assert_close(subject.model.get_parameter(name), weight, atol=1e-6, rtol=1e-5)


def test_classes_that_come_back_weigh_by_the_root_of_their_counts():
    """With a learning rate of 0, tw is cw, so each return leaves (cw p + cw - avg) / (p + 1)."""
    subject = learner()
    subject.learn(arrival(0, (12, 8)))
    before = subject.model[3].weight.detach().clone()
    for group in subject.optimizer.param_groups:
        group["lr"] = 0.0
    subject.learn(Experience(1, arrival(0, (3, 8)).train, arrival(0).test, (0, 1)))
    mean = before[:2].mean()
    torch.testing.assert_close(subject.model[3].weight[0], (before[0] * 2 + before[0] - mean) / 3)
    torch.testing.assert_close(subject.model[3].weight[1], (before[1] * 1 + before[1] - mean) / 2)
    assert subject.method.before.tolist() == [15, 16, 0, 0]


@pytest.mark.parametrize("make", [net, norm_net])
def test_body_and_statistics_are_those_of_the_first_experience(make):
    subject = learner(make(), optimizer=HEAVY)
    subject.learn(arrival(0))
    before = snapshot(subject.model)
    subject.learn(arrival(1))
    last = "3." if make is net else "6."
    for name, value in snapshot(subject.model).items():
        assert torch.equal(value, before[name]) != name.startswith(last), name


def test_answers_are_those_of_consolidated_weights_also_in_the_middle():
    subject = learner()
    subject.learn(arrival(0))
    question = everything(arrival(1).test)
    for _ in subject.steps(arrival(1)):
        pass
    after = subject.predict(question)
    other = learner()
    other.learn(arrival(0))
    *_, _last = (other.predict(question) for _ in other.steps(arrival(1)))
    torch.testing.assert_close(_last, after)
    assert torch.equal(after, other.predict(question))


def test_rows_of_classes_that_do_not_come_are_not_trained_away():
    for method, held in ((CWR(), True), (Method(), False)):
        subject = learner(method=method, epochs=20)
        subject.learn(arrival(0))
        before = subject.model[3].weight[:2].clone()
        right = subject.evaluate(arrival(0).test).value
        subject.learn(arrival(1))
        assert torch.equal(subject.model[3].weight[:2], before) == held
        assert (subject.evaluate(arrival(0).test).value > right - 0.1) == held


def test_new_outputs_start_at_0_and_old_ones_are_kept_when_the_head_grows():
    subject = learner(net(2), Chain(GrowHead(), CWR()))
    subject.learn(arrival(0))
    before = subject.model[3].weight.clone()
    seen = [subject.method.methods[1].consolidated["3.weight"].clone() for _ in subject.steps(arrival(1))]
    assert torch.equal(seen[0][:2], before)
    assert not seen[0][2:].any()
    assert torch.equal(subject.model[3].weight[:2], before)


def test_a_head_that_learned_elsewhere_is_taken_over_as_it_is():
    subject = learner()
    before = snapshot(subject.model)
    subject.remember(experience(0))
    assert checkpoint.same(before, snapshot(subject.model))
    subject.learn(arrival(1))
    after = snapshot(subject.model)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["3.weight"][:2], before["3.weight"][:2])
    assert not torch.equal(after["3.weight"][2:], before["3.weight"][2:])


def test_a_gradient_from_an_outer_method_does_not_move_the_body():
    subject = learner(method=Chain(DERpp(Memory(20), count=8), CWR()), optimizer=HEAVY)
    subject.learn(arrival(0))
    before = weights(subject.model)
    subject.learn(arrival(1))
    assert torch.equal(subject.model[0].weight, before["0.weight"])


def test_rows_without_a_label_count_for_no_class():
    rows = Columns(x=torch.randn(6, 5), y=torch.tensor([0, 0, -100, 2, -100, 2]))
    subject = learner(epochs=1)
    subject.learn(Experience(0, rows, rows, (0, 2)))
    assert subject.method.before.tolist() == [2, 0, 2, 0]


def test_a_head_for_each_task_is_refused():
    with pytest.raises(ValueError, match="a MultiHead has many; use packnet"):
        CWR().begin(MultiHead(nn.Linear(5, 6), 6, 2), experience(), classify)
