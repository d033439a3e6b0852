"""The L2 anchor holds all weights alike: its minimum is that of ridge regression about the old weights."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, shake, weights

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.l2 import L2
from everlearn.models import snapshot
from everlearn.objective import classify, regress
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.05)


def test_the_penalty_is_half_lambda_times_the_squared_distance_to_the_last_weights():
    method, model = L2(3.0), net()
    for index in range(2):
        shake(model, seed=index)
        method.end(model, experience(index), classify)
    anchor = weights(model)
    shake(model, seed=9)
    batch = everything(experience().train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    expected = sum(3 / 2 * (weight - anchor[name]).square().sum() for name, weight in model.named_parameters())
    torch.testing.assert_close(added, expected)
    grads = torch.autograd.grad(added, list(model.parameters()))
    for (name, weight), grad in zip(model.named_parameters(), grads, strict=True):
        torch.testing.assert_close(grad, 3.0 * (weight - anchor[name]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", ["gradient", "proximal"])
def test_what_is_learned_is_ridge_regression_about_the_old_weights(step):
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 5, generator=random), torch.randn(20, generator=random)
    rows = Columns(x=x, y=y)
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 1, bias=False)
    method = L2(0.7, step=step, eta=0.05)
    method.end(model, experience(), classify)
    old = model.weight.detach().clone()
    learner = Learner(model, method, regress, optimizer=SGD, batch_size=20, epochs=300)
    learner.learn(Experience(0, rows, rows))
    a = 2 / 20 * x.T @ x + 0.7 * torch.eye(5)
    expected = torch.linalg.solve(a, 2 / 20 * x.T @ y + 0.7 * old.flatten())
    torch.testing.assert_close(model.weight.detach().flatten(), expected, rtol=1e-4, atol=1e-5)


def test_the_stable_learning_rate_is_two_over_lambda():
    method = L2(8.0)
    assert method.stable_lr() == float("inf")
    method.end(net(), experience(), classify)
    assert method.stable_lr() == pytest.approx(2 / 8)


def test_the_anchor_does_not_share_memory_with_the_live_weights():
    method, model = L2(), net()
    method.end(model, experience(), classify)
    before = {name: value.clone() for name, value in method.anchor.items()}
    shake(model)
    assert checkpoint.same(before, method.anchor)


def test_new_outputs_of_a_head_are_free_until_the_experience_that_brought_them_ends():
    learner = Learner(net(2), Chain(GrowHead(), L2(5.0)), optimizer=SGD, batch_size=8)
    method = learner.method.methods[1]
    learner.learn(experience(0, classes=(0, 1)))
    for _ in learner.steps(experience(1, classes=(0, 1, 2, 3))):
        assert method.importance["3.weight"].shape == (4, 6)
        assert (method.importance["3.weight"][:2] == 1).all()
        assert not method.importance["3.weight"][2:].any()
    assert (method.importance["3.weight"] == 1).all()


def test_a_layer_frozen_for_a_while_keeps_its_anchor():
    method, model = L2(), net()
    method.end(model, experience(), classify)
    before = method.anchor["0.weight"].clone()
    model[0].requires_grad_(requires_grad=False)
    shake(model)
    method.end(model, experience(1), classify)
    assert torch.equal(method.anchor["0.weight"], before)
    assert torch.equal(method.anchor["3.weight"], model[3].weight)


@pytest.mark.parametrize("settings", [{}, {"step": "proximal", "eta": 0.05}])
def test_without_strength_it_is_plain_fine_tuning(settings):
    found = []
    for method in (Naive(), L2(0.0, **settings)):
        learner = Learner(net(), method, optimizer=SGD, batch_size=8)
        for index in range(3):
            learner.learn(experience(index))
        found.append(snapshot(learner.model))
    assert checkpoint.same(*found)


def test_a_batch_without_labels_has_no_loss_to_add_to():
    method, model = L2(), net()
    method.end(model, experience(), classify)
    assert method(model, {"x": torch.zeros(2, 5)}, classify).loss is None
