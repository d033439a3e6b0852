"""Normalisation of each side of a batch by itself."""

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.methods import StochNorm
from everlearn.models import snapshot
from everlearn.models.apart import apart
from everlearn.models.views import evaluating
from everlearn.objective import classify


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))


X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)) + torch.arange(12)[:, None] % 3
SIDES = torch.tensor([0, 3, 6, 9]), torch.tensor([1, 2, 4, 5, 7, 8, 10, 11])


def test_each_side_is_what_it_is_in_a_batch_of_its_own_and_statistics_are_those_of_both_in_turn():
    one, other = net(), net()
    with apart(one, SIDES):
        found = one(X)
    for rows in SIDES:
        torch.testing.assert_close(found[rows], other(X[rows]))
    torch.testing.assert_close(snapshot(one), snapshot(other))
    assert not torch.allclose(found, net()(X))


def test_gradients_are_those_of_two_batches():
    one, other = net(), net()
    with apart(one, SIDES):
        one(X).square().sum().backward()
    sum(other(X[rows]).square().sum() for rows in SIDES).backward()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_in_eval_mode_and_afterwards_nothing_is_different():
    model = net()
    before = snapshot(model)
    with evaluating(model):
        plain = model(X)
        with apart(model, SIDES):
            assert torch.equal(model(X), plain)
            assert torch.equal(model(X[:5]), plain[:5])
    assert checkpoint.same(before, snapshot(model))
    assert not any("forward" in vars(module) for module in model.modules())


def test_one_within_another_is_one():
    one, other = net(), net()
    with apart(one, SIDES), apart(one, SIDES[::-1]):
        found = one(X)
    with apart(other, SIDES):
        assert torch.equal(found, other(X))
    assert not any("forward" in vars(module) for module in one.modules())


def test_a_forward_of_the_users_own_is_called_and_comes_back():
    model, calls = net(), []
    norm = model[1]
    plain = norm.forward
    norm.forward = own = lambda x: calls.append(len(x)) or plain(x)
    with apart(model, SIDES):
        model(X)
    assert calls == [4, 8]
    assert norm.forward is own


def test_rows_of_which_the_side_is_not_known_are_refused_and_nothing_stays_behind():
    model = net()
    with pytest.raises(ValueError, match=r"given 5 rows of a batch of 12.*together=True"), apart(model, SIDES):
        model(X[:5])
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_side_of_one_row_is_refused_with_the_way_out_unless_a_row_has_many_places():
    one, rest = torch.tensor([4]), torch.tensor([0, 1, 2, 3])
    model, refusal = net(), r"a side of a single row.*reference_size.*drop_last.*together=True"
    with pytest.raises(ValueError, match=refusal), apart(model, (one, rest)):
        model(X[:5])
    norm, x = nn.BatchNorm1d(3), torch.randn(5, 3, 7)
    with apart(norm, (one, rest)):
        found = norm(x)
    torch.testing.assert_close(found[4:], nn.BatchNorm1d(3)(x[4:]))


def test_a_method_that_has_another_forward_of_its_own_inside_gives_this_one_back():
    model, other, batch, after = net(), net(), {"x": X, "y": torch.zeros(12, dtype=torch.int64)}, []
    for each in (model, other):
        with apart(each, SIDES):
            StochNorm(p=0.0 if each is model else 1.0)(each, batch, classify)
            after.append(each(X))
        assert not any("forward" in vars(module) for module in each.modules())
    assert torch.equal(*after)
