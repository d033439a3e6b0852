"""LP-FT is fine-tuning that begins with the head of a probe."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from methods.small import (
    SGD,
    assert_resume_is_exact,
    drawn,
    everything,
    experience,
    heads,
    learner,
    net,
    norm_net,
    of_task,
    opposed,
    rows,
    weights,
)
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns, Subset
from everlearn.data.order import batches, epoch_order
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EWC, LPFT, Naive
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.models.probing import install, probed
from everlearn.objective import classify, classify_by_task
from everlearn.streams import by_class


def test_it_is_fine_tuning_from_the_head_of_a_probe_in_each_experience():
    subject, model = learner(LPFT(C=2.0)), net()
    for index in range(2):
        subject.learn(experience(index))
        install(model, probed(model, experience(index), classify, None, 2.0, least=0.1))
        optimizer = SGD(model.parameters())
        for batch in drawn(experience(index)):
            optimizer.zero_grad()
            classify(model, batch).loss.backward()
            optimizer.step()
        assert checkpoint.same(snapshot(model), snapshot(subject.model))


def test_it_begins_with_the_loss_of_the_probe():
    first = {}
    for method in (Naive(), LPFT(C=10.0)):
        subject = learner(method, epochs=5)
        first[type(method)] = next(iter(subject.steps(experience(count=40)))).loss
    assert first[LPFT] < 0.9 * first[Naive]


@pytest.mark.parametrize("settled", [True, False])
def test_settled_normalisations_keep_their_statistics_and_learn_their_scale(settled):
    subject = learner(LPFT(settled=settled), norm_net())
    before = snapshot(subject.model)
    subject.learn(opposed(0))
    after = snapshot(subject.model)
    assert torch.equal(after["2.running_mean"], before["2.running_mean"]) == settled
    assert not torch.equal(after["2.weight"], before["2.weight"])
    assert all(module.training for module in subject.model.modules())


def test_settled_normalisations_use_their_statistics_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    method, batch = LPFT(settled=True), everything(rows())
    method.begin(model, experience(), classify)
    trained = method(model, batch, classify)
    torch.testing.assert_close(trained.logits, model.eval()(batch["x"]))


def test_to_remember_what_a_model_knows_already_leaves_its_head():
    subject = learner(LPFT())
    before = weights(subject.model)
    subject.remember(experience())
    assert checkpoint.same(before, weights(subject.model))


def test_a_process_without_a_share_of_the_first_batch_has_the_head_before_the_step():
    model, method = net(), LPFT()
    method.begin(model, experience(), classify)
    solution = method.solution
    method.before_step(model)
    assert torch.equal(model[3].weight, solution["3.weight"])
    assert method.solution == {}


def test_resume_is_exact(tmp_path):
    assert_resume_is_exact(lambda: learner(LPFT(), norm_net()), [opposed(0), opposed(1)], (2, 5, 8, 11), tmp_path)


def test_it_goes_with_methods_that_hold_and_with_tasks():
    subject = learner(Chain(LPFT(), EWC(lambda_=5.0)), heads(), objective=classify_by_task)
    for index in range(2):
        subject.learn(of_task(index, rows(classes=2)))
    assert all(weight.isfinite().all() for weight in subject.model.parameters())
    assert build("lpft:settled=true+ewc").methods[0].settled


def test_with_a_memory_the_head_is_solved_for_on_old_rows_and_new_ones():
    subject = learner(LPFT(memory=Memory(1000)))
    subject.learn(experience(0))
    assert len(subject.method.memory) == len(experience(0).train)
    model, optimizer = deepcopy(subject.model), None
    columns = [everything(experience(index).train) for index in range(2)]
    both = Columns(**{name: torch.cat([column[name] for column in columns]) for name in "xy"})
    install(model, probed(model, replace(experience(1), train=both), classify, None, 1.0, least=0.1))
    optimizer = SGD(model.parameters())
    classify(model, next(iter(batches(experience(1).train, epoch_order(20, 0, 1, 0), 8)))).loss.backward()
    optimizer.step()
    next(iter(subject.steps(experience(1))))
    for name, value in snapshot(model).items():  # the memory has its rows in another order
        torch.testing.assert_close(subject.model.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_with_a_memory_classes_that_arrive_one_after_another_do_not_outweigh_old_ones():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(160, 5, generator=random) + 2 * torch.eye(5)[torch.arange(160) % 4]
    data = Columns(x=x, y=torch.arange(160) % 4)
    accuracy = {}
    for text in ("er:memory=200,count=8+lpft", "er:memory=200,count=8+lpft:memory=200"):
        subject = learner(build(text), epochs=1)
        for each in by_class(data, data, [(0, 1), (2, 3)]):
            next(iter(subject.steps(each)))  # the head is solved for
            if each.index == 0:
                subject.learn(each)
        accuracy[text] = subject.evaluate(Subset(data, torch.arange(160)[data.column("y") < 2])).value
    without, with_it = accuracy.values()
    assert with_it > without + 0.2, accuracy


def test_a_memory_of_its_own_is_what_a_user_may_ask_for():
    assert build("lpft").memory is None
    assert build("lpft:memory=50").memory.capacity == 50
