"""After the first experience nothing moves but what was asked for, whatever the optimizer."""

from functools import partial

import pytest
import torch
from methods.small import experience, net, norm_net
from torch import nn
from torch.nn import functional as F

from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods.derpp import DERpp
from everlearn.methods.freeze import Freeze
from everlearn.methods.growth import GrowHead
from everlearn.methods.naive import Naive
from everlearn.models import MultiHead, snapshot
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def arrival(index, classes):
    random = torch.Generator().manual_seed(index)
    y = torch.tensor(classes).repeat(10)
    rows = Columns(x=torch.randn(len(y), 5, generator=random) + 2 * torch.eye(5)[y], y=y)
    return Experience(index, rows, rows, classes)


def learner(model=None, method=None, optimizer="sgd", **options):
    settings = {"optimizer": OPTIMIZERS[optimizer], "epochs": 3, "batch_size": 8} | options
    return Learner(model or net(), method or Freeze(), **settings)


def moved(subject, *experiences):
    before = snapshot(subject.model)
    for each in experiences:
        subject.learn(each)
    after = snapshot(subject.model)
    return {name for name in after if not torch.equal(after[name], before[name])}, before, after


@every_optimizer
def test_the_first_experience_is_fine_tuning_bit_for_bit(optimizer):
    naive, subject = learner(method=Naive(), optimizer=optimizer), learner(optimizer=optimizer)
    for each in (naive, subject):
        each.learn(arrival(0, (0, 1)))
    assert all(torch.equal(a, b) for a, b in zip(naive.model.parameters(), subject.model.parameters(), strict=True))


@every_optimizer
@pytest.mark.parametrize("make", [net, norm_net])
def test_then_only_the_rows_of_new_classes_move(make, optimizer):
    subject = learner(make(), optimizer=optimizer)
    subject.learn(arrival(0, (0, 1)))
    last = "3" if make is net else "6"
    names, before, after = moved(subject, arrival(1, (1, 2)))
    assert names == {f"{last}.weight", f"{last}.bias"}
    for name in names:
        rows = [not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True)]
        assert rows == [False, False, True, False]


@every_optimizer
def test_the_head_is_logistic_regression_on_features_that_stand_still(optimizer):
    """By hand: features taken once in eval mode, and a loop over the head alone."""
    subject = learner(norm_net(), Freeze(learns="all"), optimizer, epochs=30, batch_size=20)
    subject.learn(arrival(0, (0, 1)))
    subject.fresh_optimizer = True
    second = arrival(1, (2, 3))
    batch = second.train.take(torch.arange(20))
    head = nn.Linear(9, 4)
    head.load_state_dict(subject.model[6].state_dict())
    with torch.no_grad():
        features = subject.model.eval()[:6](batch["x"])
    step = OPTIMIZERS[optimizer](head.parameters())
    for _ in range(30):
        step.zero_grad()
        F.cross_entropy(head(features), batch["y"]).backward()
        step.step()
    subject.learn(second)
    torch.testing.assert_close(subject.model[6].weight, head.weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(subject.model[6].bias, head.bias, atol=1e-5, rtol=1e-4)


def test_nothing_learns_and_no_step_is_taken_where_nothing_should():
    for method, second in ((Freeze(learns="none"), arrival(1, (2, 3))), (Freeze(), arrival(1, (0, 1)))):
        subject = learner(method=method)
        subject.learn(arrival(0, (0, 1)))
        assert moved(subject, second)[0] == set()
        assert all(step.loss is None for step in subject.steps(arrival(2, (0, 1))))


def test_all_rows_learn_where_all_should():
    subject = learner(method=Freeze(learns="all"))
    subject.learn(arrival(0, (0, 1)))
    names, before, after = moved(subject, arrival(1, (0, 1)))
    assert names == {"3.weight", "3.bias"}
    assert not any(torch.equal(a, b) for a, b in zip(before["3.weight"], after["3.weight"], strict=True))


@every_optimizer
def test_a_new_task_learns_its_head_and_a_known_one_nothing(optimizer):
    torch.manual_seed(0)
    model = MultiHead(nn.Sequential(nn.Linear(5, 6), nn.ReLU()), 6, 2, 3)
    subject = Learner(model, Chain(GrowHead(), Freeze()), classify_by_task, optimizer=OPTIMIZERS[optimizer])

    def task(index, label):
        rows = Columns(**arrival(index, (0, 1)).train.take(torch.arange(20)), task=torch.full((20,), label))
        return Experience(index, rows, rows, (0, 1), label)

    subject.learn(task(0, 0))
    assert moved(subject, task(1, 2))[0] == {"heads.2.weight", "heads.2.bias"}
    assert moved(subject, task(2, 0))[0] == set()


def test_rows_that_grew_learn_and_the_others_do_not():
    subject = learner(net(2), Chain(GrowHead(), Freeze()), epochs=20)
    subject.learn(arrival(0, (0, 1)))
    before = subject.model[3].weight.clone()
    subject.learn(arrival(1, (2, 3)))
    assert torch.equal(subject.model[3].weight[:2], before)
    assert subject.evaluate(arrival(1, (2, 3)).test).value > 0.5  # of four classes


def test_the_body_gets_no_gradient_and_says_afterwards_that_it_may():
    subject = learner()
    subject.learn(arrival(0, (0, 1)))
    for _ in subject.steps(arrival(1, (2, 3))):
        assert subject.model[0].weight.grad is None
        assert all(weight.requires_grad for weight in subject.model.parameters())
        assert all(module.training for module in subject.model.modules())
    assert subject.optimizer.param_groups[0]["params"] == list(subject.model.parameters())


def test_a_layer_that_the_user_froze_stays_frozen():
    model = net()
    model[0].requires_grad_(requires_grad=False)
    subject = learner(model)
    subject.learn(arrival(0, (0, 1)))
    subject.learn(arrival(1, (2, 3)))
    assert [weight.requires_grad for weight in model.parameters()] == [False, False, True, True]


def test_a_gradient_from_an_outer_method_does_not_move_what_is_held():
    subject = learner(method=Chain(DERpp(Memory(20), count=8), Freeze()))
    subject.learn(arrival(0, (0, 1)))
    names, before, after = moved(subject, arrival(1, (2, 3)))
    assert names == {"3.weight", "3.bias"}
    assert torch.equal(before["3.weight"][:2], after["3.weight"][:2])


def test_a_model_that_learned_elsewhere_is_held_from_the_start():
    subject = learner()
    subject.remember(experience(0, classes=(0, 1)))
    names, _, _ = moved(subject, arrival(1, (2, 3)))
    assert names == {"3.weight", "3.bias"}


def test_a_strange_word_is_refused():
    with pytest.raises(ValueError, match="learns must be one of new, all, none, but is 'some'"):
        Freeze(learns="some")
    with pytest.raises(ValueError, match=r"no nn.Linear named 'tail'"):
        Freeze(head="tail").begin(net(), experience(), classify)
