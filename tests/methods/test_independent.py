"""A net for each task is what separate runs would give, bit for bit."""

from functools import partial

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.batch import join
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods.growth import GrowHead
from everlearn.methods.independent import Independent
from everlearn.methods.naive import Naive
from everlearn.models import MultiHead, snapshot
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

ADAM = partial(torch.optim.Adam, lr=0.01)


def model(tasks=1):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8)
    )
    return MultiHead(body, 8, 2, tasks)


def task(index, label=None):
    label = index if label is None else label
    random = torch.Generator().manual_seed(index)
    x = torch.randn(24, 6, generator=random) + label
    y = (x[:, 0] > label).long()
    rows = Columns(x=x, y=y, task=torch.full((24,), label))
    return Experience(index, rows, rows, (0, 1), label)


def everything(part):
    return part.take(torch.arange(len(part)))


def learner(method, net=None, objective=classify_by_task):
    net = model() if net is None else net
    return Learner(net, method, objective, optimizer=ADAM, epochs=2, batch_size=8, fresh_optimizer=True)


def test_each_net_is_that_of_a_run_with_this_task_alone_bit_for_bit():
    subject = learner(Chain(GrowHead(), Independent()))
    for index in range(3):
        subject.learn(task(index))
    for index in range(3):
        alone = learner(Naive(), model(tasks=3))
        alone.experience = index
        alone.learn(task(index))
        question = everything(task(index).test)
        assert torch.equal(subject.predict(question), alone.predict(question))
        net = subject.method.methods[1].nets[index]
        for name in net:
            if not name.startswith("heads.") or name.startswith(f"heads.{index}."):
                assert torch.equal(net[name], snapshot(alone.model)[name]), name


def test_answers_about_a_task_never_change_once_it_has_ended():
    subject, answers = learner(Chain(GrowHead(), Independent())), []
    for index in range(3):
        for _ in subject.steps(task(index)):
            for old, answer in enumerate(answers):
                assert torch.equal(subject.predict(everything(task(old).test)), answer)
        answers.append(subject.predict(everything(task(index).test)))


def test_a_task_that_comes_back_goes_on_from_its_own_net():
    subject = learner(Independent(), model(tasks=2))
    for index in range(2):
        subject.learn(task(index))
    before = subject.method.nets[0]
    steps = subject.steps(task(2, label=0))
    subject.method.begin(subject.model, task(2, label=0), classify_by_task)
    assert checkpoint.same(before, snapshot(subject.model))
    for _ in steps:
        pass
    assert not checkpoint.same(before, subject.method.nets[0])
    assert sorted(subject.method.nets) == [0, 1]


def test_a_task_that_never_came_is_answered_by_the_first_weights():
    subject, fresh = learner(Independent(), model(tasks=3)), model(tasks=3).eval()
    subject.learn(task(0))
    question = everything(task(2).test)
    with torch.no_grad():
        assert torch.equal(subject.predict(question), fresh(question["x"], question["task"]))


def test_rows_of_several_tasks_in_one_batch_are_answered_each_by_its_net():
    subject = learner(Independent(), model(tasks=4))
    for index in range(3):
        subject.learn(task(index))
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    mixed = join(*(everything(task(index).test) for index in range(4)))
    answers = torch.cat([subject.predict(everything(task(index).test)) for index in range(4)])
    torch.testing.assert_close(subject.predict({n: c[order] for n, c in mixed.items()}), answers[order])


def test_a_single_head_that_grew_starts_again_as_it_was_drawn():
    torch.manual_seed(0)
    net = nn.Linear(6, 2)
    subject = learner(Chain(GrowHead(), Independent()), net, classify)

    def wide(index, classes):
        rows = Columns(**everything(task(index).train))
        return Experience(index, rows, rows, classes, index)

    subject.learn(wide(0, (0, 1)))
    subject.learn(wide(1, (0, 1, 2)))
    drawn = subject.method.methods[1].first["weight"].clone()
    subject.learn(wide(2, (0, 1, 2)))
    assert torch.equal(subject.method.methods[1].first["weight"], drawn)
    assert not torch.equal(subject.method.methods[1].nets[1]["weight"][2], drawn[2])
    assert subject.predict(everything(task(0).test)).shape == (24, 3)


def test_an_experience_without_a_task_is_refused():
    with pytest.raises(ValueError, match="experience 0 has the task None; make the stream with by_task"):
        Independent().begin(model(), Experience(0, task(0).train, task(0).test), classify_by_task)
