"""Memory aware synapses hold what the answers are sensitive to, row by row, and look at no label."""

import copy
from functools import partial

import pytest
import torch
from methods.small import (
    assert_end_leaves_no_trace,
    everything,
    experience,
    heads,
    net,
    norm_net,
    of_task,
    rows_looked_at,
    shake,
    trains_plainly,
    weighted_square,
    weights,
)
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods.mas import MAS
from everlearn.models import grow
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.01)


def omega_by_hand(model, batch):
    """The mean over rows of |d ||f(x)||^2 / dw|, one backward pass for each row."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for x in batch["x"]:
        model.zero_grad()
        model(x[None]).square().sum().backward()
        for name, weight in model.named_parameters():
            total[name] += weight.grad.abs() / len(batch["x"])
    return total


@pytest.mark.parametrize("make", [net, norm_net])
def test_importance_is_the_mean_absolute_gradient_of_the_squared_norm_of_the_logits_of_single_rows(make):
    model, e = make(), experience(count=150)  # more than one batch of the estimate
    method = MAS()
    method.end(model, e, classify)
    for name, value in omega_by_hand(model, everything(e.train)).items():
        torch.testing.assert_close(method.importance[name], value, rtol=1e-3, atol=1e-6)


def test_importance_adds_up_over_experiences():
    method, model, total = MAS(), net(), None
    for index in range(3):
        shake(model, seed=index)
        new = omega_by_hand(model, everything(experience(index).train))
        total = new if total is None else {name: total[name] + value for name, value in new.items()}
        method.end(model, experience(index), classify)
    for name, value in total.items():
        torch.testing.assert_close(method.importance[name], value, rtol=1e-3, atol=1e-6)


def test_the_penalty_is_lambda_times_the_weighted_square_without_a_half():
    method, model = MAS(3.0), net()
    method.end(model, experience(), classify)
    anchor = weights(model)
    shake(model)
    batch = everything(experience(1).train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    torch.testing.assert_close(added, 3.0 * weighted_square(model, method.importance, anchor))


@pytest.mark.parametrize("labels", ["none", "others", "unlabelled"])
def test_importance_needs_no_label_and_looks_at_none(labels):
    model, e = net(), experience()
    batch = everything(e.train)
    rows = {
        "none": Columns(x=batch["x"]),
        "others": Columns(x=batch["x"], y=batch["y"].flip(0)),
        "unlabelled": Columns(x=batch["x"], y=torch.full_like(batch["y"], -100)),
    }[labels]
    method, other = MAS(), MAS()
    method.end(model, e, classify)
    other.end(model, Experience(0, rows, rows), classify)
    assert checkpoint.same(method.importance, other.importance)


def test_importance_is_that_of_logits_and_not_of_probabilities():
    """Adding a constant to all logits changes no probability, and every importance."""
    model = nn.Sequential(nn.Linear(5, 4))
    method, other = MAS(), MAS()
    method.end(model, experience(), classify)
    with torch.no_grad():
        model[0].bias += 1
    other.end(model, experience(), classify)
    assert (method.importance["0.bias"] != other.importance["0.bias"]).all()


@pytest.mark.parametrize("size", [5, 20])
def test_importance_does_not_depend_on_the_batch_size_of_training(size):
    learner = Learner(net(), MAS(), optimizer=partial(torch.optim.SGD, lr=0.0), batch_size=size)
    learner.learn(experience())
    expected = omega_by_hand(net(), everything(experience().train))
    for name, value in learner.method.importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6)


def test_the_estimate_runs_in_eval_mode_and_moves_nothing():
    assert_end_leaves_no_trace(MAS())


def test_rows_bounds_the_number_of_rows_that_are_looked_at():
    assert rows_looked_at(MAS(rows=7)) == {7}


def test_with_task_labels_only_the_head_of_the_task_is_sensitive():
    method = MAS()
    method.end(heads(), of_task(1, experience(classes=(0, 1)).train), classify_by_task)
    assert {name for name, value in method.importance.items() if value.any()} == {
        "backbone.0.weight",
        "backbone.0.bias",
        "heads.1.weight",
        "heads.1.bias",
    }


def test_a_head_that_grows_is_held_where_it_was_known():
    method, model = MAS(), net(2)
    method.end(model, experience(classes=(0, 1)), classify)
    first = method.importance["3.weight"].clone()
    grow(model, 4)
    method.end(model, experience(1), classify)
    expected = omega_by_hand(model, everything(experience(1).train))["3.weight"]
    expected[:2] += first
    torch.testing.assert_close(method.importance["3.weight"], expected, rtol=1e-3, atol=1e-6)


def test_a_layer_frozen_for_a_while_is_held_by_what_was_known_of_it():
    method, model = MAS(), net()
    method.end(model, experience(0), classify)
    importance, anchor = method.importance["0.weight"].clone(), method.anchor["0.weight"].clone()
    model[0].requires_grad_(requires_grad=False)
    learner = Learner(model, method, optimizer=lambda _: SGD(model[3].parameters()))
    learner.learn(experience(1))
    assert torch.equal(method.importance["0.weight"], importance)
    assert torch.equal(method.anchor["0.weight"], anchor)


@pytest.mark.parametrize("settings", [{}, {"step": "proximal", "eta": 0.05}])
def test_without_strength_it_is_plain_fine_tuning(settings):
    assert trains_plainly(MAS(0.0, **settings), norm_net)


def test_with_a_proximal_step_any_strength_holds_and_the_unimportant_weights_still_learn():
    model = net()
    learner = Learner(model, MAS(1e6, step="proximal", eta=0.05), optimizer=SGD, batch_size=20, epochs=20)
    learner.learn(experience(0))
    before = weights(model)
    learner.method.importance["3.bias"][:] = 0
    learner.learn(experience(1))
    for name, value in weights(model).items():
        moved = (value - before[name]).abs().max()
        assert moved > 1e-2 if name == "3.bias" else moved < 1e-3
