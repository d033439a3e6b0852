"""A growing head has an output for every class met so far, before the first batch that needs it."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, rows
from torch import nn

from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import GrowHead, Replay
from everlearn.models import MultiHead
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience, by_task

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def test_there_is_an_output_for_the_largest_class_before_the_first_batch():
    method, model = GrowHead(), net(2)
    method.begin(model, experience(0, classes=(0, 6)), classify)
    assert model(torch.zeros(1, 5)).shape == (1, 7)


def test_a_head_never_shrinks():
    method, model = GrowHead(), net(4)
    before = model[3].weight
    method.begin(model, experience(0, classes=(0, 1)), classify)
    assert model[3].weight is before


def test_an_experience_that_names_no_classes_changes_nothing():
    method, model = GrowHead(), net(2)
    method.begin(model, Experience(0, rows(), rows()), classify)
    assert model[3].out_features == 2


def test_old_outputs_stay_bit_identical():
    method, model = GrowHead(), net(2)
    x = torch.randn(3, 5)
    before, weight = model(x), model[3].weight.clone()
    method.begin(model, experience(0, classes=range(6)), classify)
    assert torch.equal(model[3].weight[:2], weight)
    torch.testing.assert_close(model(x)[:, :2], before)


def test_new_outputs_depend_on_the_seed_alone():
    def grown(seed, noise):
        model = net(2)
        torch.manual_seed(noise)
        GrowHead(seed=seed).begin(model, experience(0, classes=range(6)), classify)
        return model[3].weight

    assert torch.equal(grown(0, 1), grown(0, 2))
    assert not torch.equal(grown(0, 1), grown(1, 1))


def test_the_layer_named_is_the_one_that_grows():
    model = nn.ModuleDict({"old": nn.Linear(5, 2), "aux": nn.Linear(5, 3)})
    GrowHead("old").begin(model, experience(0, classes=range(6)), classify)
    assert (model["old"].out_features, model["aux"].out_features) == (6, 3)
    with pytest.raises(ValueError, match=r"no nn\.Linear named 'heads'"):
        GrowHead("heads").begin(model, experience(0, classes=range(9)), classify)


def test_a_model_with_a_head_for_each_task_gets_one_for_the_task_that_comes():
    data = rows(40)
    stream = by_task(data, data, [(0, 1), (2, 3)])
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    learner = Learner(MultiHead(body, 6, 2), GrowHead(), classify_by_task, optimizer=SGD)
    learner.learn(stream[0])
    assert len(learner.model.heads) == 1
    first = learner.model.heads[0].weight.clone()
    learner.learn(stream[1])
    assert len(learner.model.heads) == 2
    assert torch.equal(learner.model.heads[0].weight, first)  # no gradient, no momentum, no decay
    members = {id(weight) for group in learner.optimizer.param_groups for weight in group["params"]}
    assert members == {id(weight) for weight in learner.model.parameters()}


@pytest.mark.parametrize("place", [0, 1])
def test_it_may_stand_anywhere_in_a_chain(place):
    methods = [Replay(Memory(50), count=8)]
    methods.insert(place, GrowHead())
    learner = Learner(net(2), Chain(*methods), optimizer=SGD)
    for index, classes in enumerate([(0, 1), (2, 3), (4,)]):
        learner.learn(experience(index, classes=classes))
    assert learner.predict(everything(rows(3))).shape == (3, 5)
