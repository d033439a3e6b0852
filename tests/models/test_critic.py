"""Small nets of methods: their sizes, their drawing, and the steps that some take by themselves."""

import copy

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.models.critic import Critic
from everlearn.models.perceptron import Perceptron
from everlearn.models.reversal import reverse

X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def critic(hidden=(6,)):
    made = Critic(hidden)
    made.widen(5, seed=1)
    return made


def loss(net):
    return (net(X).flatten() - X[:, 0]).square().mean()


NETS = [Perceptron((7, 6)), Perceptron((), outputs=3), Perceptron((4,), spread=0.01), Critic()]


@pytest.mark.parametrize("made", NETS)
def test_a_net_without_layers_takes_those_of_a_saved_state(made):
    saved = copy.deepcopy(made)
    saved.widen(5, seed=3)
    state = torch.get_rng_state()
    made.load_state_dict(saved.state_dict())
    assert torch.equal(state, torch.get_rng_state())
    assert made.widths == saved.widths
    assert checkpoint.same(made.state_dict(), saved.state_dict())
    assert torch.equal(made(X), saved(X))
    made.load_state_dict(type(made)().state_dict())
    assert made.widths == ()


def test_what_is_drawn_is_a_function_of_the_seed_and_stays_while_the_sizes_do():
    one, other = Perceptron((8,)), Perceptron((8,))
    one.widen(5, seed=1)
    torch.rand(3)
    other.widen(5, seed=1)
    assert checkpoint.same(one.state_dict(), other.state_dict())
    before = list(one.parameters())
    one.widen(5, seed=2)
    assert all(mine is theirs for mine, theirs in zip(before, one.parameters(), strict=True))
    one.widen(5, seed=2, outputs=4)
    assert one.widths == (5, 8, 4)


def test_with_a_spread_weights_are_normal_and_biases_0():
    made = Perceptron((1000,), outputs=3, spread=0.01)
    made.widen(50, seed=0)
    assert 0.0095 < float(made[0].weight.detach().std()) < 0.0105
    assert not made[0].bias.any()
    assert not made[2].bias.any()


def test_without_layers_it_says_so():
    with pytest.raises(ValueError, match="no layers yet"):
        Perceptron()(X)


def test_its_steps_are_those_of_adam():
    mine, theirs = critic(), critic()
    theirs.requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.03)
    for _ in range(20):
        mine.descend(lambda: loss(mine), 0.03)
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert float(mine.age) == 20


def test_only_its_own_steps_move_it():
    made = critic()
    x = X.clone().requires_grad_()
    made(x).sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in made.parameters())
    assert x.grad.any()


def test_it_goes_on_from_a_saved_state_exactly():
    whole, first, second = critic(), critic(), Critic((6,))
    for _ in range(6):
        whole.descend(lambda: loss(whole), 0.1)
    for _ in range(3):
        first.descend(lambda: loss(first), 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        second.descend(lambda: loss(second), 0.1)
    assert checkpoint.same(whole.state_dict(), second.state_dict())


def test_a_gradient_that_is_not_finite_moves_nothing():
    made = critic()
    before = copy.deepcopy(made.state_dict())
    made.descend(lambda: loss(made) * torch.nan, 0.1)
    assert checkpoint.same(before, made.state_dict())
    assert not any(weight.requires_grad for weight in made.parameters())


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_a_reversed_gradient_is_the_opposite_times_the_strength(strength):
    x, net = X.clone().requires_grad_(), nn.Linear(5, 1)
    plain = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    turned = torch.autograd.grad(net(reverse(x, strength)).square().sum(), [x, *net.parameters()])
    torch.testing.assert_close(turned[0], -strength * plain[0])
    assert all(torch.equal(one, other) for one, other in zip(turned[1:], plain[1:], strict=True))
    assert torch.equal(reverse(x, strength), x)
