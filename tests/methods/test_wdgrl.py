"""WDGRL: the penalty on the slope of the critic, its own steps, and the distance that it tells."""

import copy

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.methods import WDGRL
from everlearn.methods.aligned import Side
from everlearn.methods.wdgrl import steepness


def side(rows, shift, seed):
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed)) * 0.1
    return Side(features + torch.tensor([shift, 0.0, 0.0]), torch.zeros(rows, 2), None)


def prepared(**options):
    made = WDGRL(**{"hidden": 16, "lr": 0.02} | options)
    made.prepare(3, 2, torch.device("cpu"))
    return made


def test_the_norm_is_that_of_the_whole_gradient_of_a_row():
    critic = nn.Linear(3, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[2.0, 1.0, 2.0]]))
    torch.testing.assert_close(steepness(critic, torch.randn(5, 3)), torch.tensor(4.0))  # (3 - 1)^2


@pytest.mark.parametrize("rows", [(30, 30), (8, 4), (1, 7)])
def test_after_many_steps_the_critic_tells_how_far_the_sides_are_apart(rows):
    made = prepared(steps=300)
    source, target = side(rows[0], 2.0, 0), side(rows[1], 0.0, 1)
    told = made.gap(None, source, target).detach()
    apart = (source.features.mean(0) - target.features.mean(0)).norm()
    assert abs(float(told - apart)) < 0.3
    assert float(steepness(made.critic, torch.cat([source.features, target.features])).detach()) < 0.1


def test_the_features_descend_what_the_critic_ascends():
    made = prepared(steps=20)
    source, target = side(8, 1.0, 0), side(4, 0.0, 1)
    for each in (source, target):
        each.features.requires_grad_()
    before = copy.deepcopy(made.critic.state_dict())
    gap = made.gap(None, source, target)
    gap.backward()
    after = copy.deepcopy(made.critic.state_dict())
    assert not checkpoint.same(before, after)
    assert all(weight.grad is None for weight in made.critic.parameters())
    with torch.no_grad():
        closer = made._distance(*(each.features - 0.1 * each.features.grad for each in (source, target)))
    assert closer < gap
    x = source.features.detach().requires_grad_()
    plain = torch.autograd.grad(made.critic(x).mean(), x)[0]
    torch.testing.assert_close(source.features.grad, plain)


def test_the_points_between_are_a_function_of_the_step():
    one, other = prepared(), prepared()
    other.taken = 1
    for made in (one, other):
        made.gap(None, side(8, 1.0, 0), side(4, 0.0, 1))
    assert not checkpoint.same(one.critic.state_dict(), other.critic.state_dict())
    again = prepared()
    torch.rand(5)
    again.gap(None, side(8, 1.0, 0), side(4, 0.0, 1))
    assert checkpoint.same(one.critic.state_dict(), again.critic.state_dict())


@pytest.mark.parametrize("given", [{"hidden": 0}, {"steps": 0}])
def test_sizes_are_whole_numbers_of_at_least_1(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        WDGRL(**given)
