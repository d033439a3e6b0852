"""DELTA holds what the modules of the pretrained model give, in eval mode, about the very rows of the batch."""

import copy

import pytest
import torch
from methods.small import everything, experience, learner, net, norm_net, opposed, rows, shake, trains_plainly
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import DELTA, FixMatch, GrowHead, Replay
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.objective import classify


def pair(make=norm_net, **settings):
    """A method that has begun, the model it began with, and that model after it has moved."""
    model, method = make(), DELTA(**settings)
    model(everything(rows(seed=4))["x"])
    method.begin(model, experience(), classify)
    before = copy.deepcopy(model).eval()
    shake(model)
    return method, before, model


@pytest.mark.parametrize(("taps", "places"), [(None, [5]), ("1", [1]), ("[123]", [1, 2, 3])])
def test_the_penalty_is_the_squared_distance_of_feature_maps_and_the_decay_of_the_head(taps, places):
    """The oracle: both models by hand, module by module."""
    method, before, model = pair(alpha=3.0, beta=0.5, taps=taps)
    model[4].p = 0.0
    batch = everything(rows(9))
    found = method(model, batch, classify).loss
    grads = torch.autograd.grad(found, list(model.parameters()))
    now, then, away = batch["x"], batch["x"], 0
    for place, (a, b) in enumerate(zip(model, before, strict=True)):
        now, then = a(now), b(then)
        if place in places:
            away = away + (now - then.detach()).flatten(1).square().sum(1).mean()
    decay = sum(weight.square().sum() for weight in model[6].parameters())
    expected = F.cross_entropy(now, batch["y"]) + 3.0 / 2 * away + 0.5 / 2 * decay
    torch.testing.assert_close(found, expected)
    for a, b in zip(grads, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_the_model_as_it_first_came_with_its_statistics_and_stays():
    subject = learner(DELTA(alpha=1.0), norm_net())
    before = snapshot(subject.model)
    for index in range(2):
        for _ in subject.steps(opposed(index)):
            assert checkpoint.same(subject.method.teacher, before)
    assert not checkpoint.same(before, snapshot(subject.model))


def test_it_draws_the_features_back():
    ends = {}
    for alpha in (0.0, 10.0):
        subject = learner(DELTA(alpha=alpha, beta=0.0), epochs=10, clip=1.0)
        x = everything(rows())["x"]
        before = subject.model[:3](x).detach()
        subject.learn(experience())
        ends[alpha] = (subject.model[:3](x) - before).norm().detach()
    assert ends[10.0] < 0.2 * ends[0.0]


def test_rows_that_replay_joins_behind_it_are_not_compared():
    memory = Memory(20)
    memory.add(everything(rows(10, seed=3)))
    model, method = net(), DELTA()
    method.begin(model, experience(), classify)
    assert Chain(method, Replay(memory, count=5))(model, everything(rows(8)), classify).loss.isfinite()


def test_a_head_that_grows_leaves_the_teacher_as_it_was():
    subject = learner(Chain(GrowHead(), DELTA()), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.method.methods[1].teacher["3.weight"].shape == (2, 6)
    assert subject.model[3].weight.shape == (4, 6)


@pytest.mark.parametrize("model", [net, norm_net])
def test_without_strength_it_is_plain_fine_tuning(model):
    assert trains_plainly(DELTA(alpha=0.0, beta=0.0), model)


def test_under_autocast_maps_are_compared_in_float32():
    method, _, model = pair()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(model, everything(rows()), classify).loss
    assert loss.dtype == torch.float32


def test_a_batch_without_labels_and_a_stream_without_a_beginning_have_nothing_added():
    method, _, model = pair()
    assert method(model, {"x": torch.zeros(2, 5)}, classify).loss is None
    batch = everything(rows())
    assert torch.equal(DELTA()(net(), batch, classify).loss, classify(net(), batch).loss)


def test_modules_that_cannot_be_held_on_to_are_refused():
    with pytest.raises(ValueError, match="no module of Sequential has a name that matches taps='conv'"):
        DELTA(taps="conv").begin(net(), experience(), classify)
    shared = nn.Linear(5, 5)
    model, method = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(5, 4)), DELTA(taps="0")
    method.begin(model, experience(), classify)
    with pytest.raises(ValueError, match="'0' was called 2 times for one batch"):
        method(model, everything(rows()), classify)
    method, twice = DELTA(), FixMatch(threshold=0.0, strong=lambda rows, key: rows)
    method.begin(model := net(), experience(), classify)
    batch = {"x": everything(rows())["x"], "y": torch.tensor([1] * 10 + [UNLABELED] * 10)}
    with pytest.raises(ValueError, match="methods that ask the model more than once in front"):
        Chain(method, twice)(model, batch, classify)
    assert Chain(twice, method)(model, batch, classify).loss.isfinite()


def test_on_the_command_line():
    assert build("delta:alpha=0.1,taps=layer[34]").taps == "layer[34]"
