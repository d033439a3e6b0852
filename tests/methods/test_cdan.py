"""CDAN: what the discriminator sees, and what a row weighs."""

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.methods import CDAN
from everlearn.methods.aligned import Side
from everlearn.methods.cdan import certainty


def side(rows, width, classes, seed):
    random = torch.Generator().manual_seed(seed)
    return Side(torch.randn(rows, width, generator=random), torch.randn(rows, classes, generator=random), None)


def prepared(width=4, classes=3, **options):
    made = CDAN(**{"hidden": 8, "gamma": 0.0} | options)
    made.prepare(width, classes, torch.device("cpu"))
    return made


def test_the_product_has_an_entry_for_each_feature_and_class():
    made = prepared()
    f, p = torch.randn(5, 4), torch.randn(5, 3).softmax(1)
    found = made.product(f, p)
    by_hand = torch.stack([torch.outer(f[i], p[i]).flatten() for i in range(5)])
    assert torch.equal(found, by_hand)
    assert made.critic.widths[0] == 12


def test_the_logits_get_no_gradient():
    source, target = side(3, 4, 3, 0), side(5, 4, 3, 1)
    for each in (*source[:2], *target[:2]):
        each.requires_grad_()
    prepared().gap(nn.Identity(), source, target).backward()
    assert source.logits.grad is None is target.logits.grad
    assert source.features.grad.any()
    assert target.features.grad.any()


def test_probabilities_and_not_logits_condition_it():
    made, source, target = prepared(entropy=False), side(3, 4, 3, 0), side(5, 4, 3, 1)
    shifted = source._replace(logits=source.logits + 7)  # the same probabilities
    torch.testing.assert_close(made.gap(None, source, target), made.gap(None, shifted, target))


def test_a_large_product_goes_through_fixed_random_maps_which_keep_inner_products():
    made = prepared(width=100, classes=50, randomized=2000)
    assert [tuple(map_.shape) for map_ in made.maps] == [(100, 2000), (50, 2000)]
    assert made.critic.widths[0] == 2000
    f, p = torch.randn(6, 100), torch.randn(6, 50).softmax(1)
    found, exact = (z @ z.T for z in (made.product(f, p), (f[:, :, None] * p[:, None]).flatten(1)))
    assert (found - exact).abs().max() < 0.3 * exact.abs().max()
    assert prepared(width=64, classes=64).maps == []
    assert prepared(width=65, classes=64, randomized=8).maps != []


def test_the_maps_are_state_which_a_new_method_takes_over():
    made, other = prepared(width=100, classes=50, seed=1), CDAN(hidden=8)
    other.load_state_dict(made.state_dict())
    before = [map_.clone() for map_ in made.maps]
    other.prepare(100, 50, torch.device("cpu"))
    assert checkpoint.same(before, other.maps)
    made.prepare(100, 50, torch.device("cpu"))
    assert checkpoint.same(before, made.maps)
    made.prepare(10, 5, torch.device("cpu"))
    assert made.maps == []


def test_new_classes_leave_the_maps_of_the_old_ones_as_they_are():
    made = prepared(width=100, classes=50)
    before = [map_.clone() for map_ in made.maps]
    made.prepare(100, 60, torch.device("cpu"))
    assert torch.equal(made.maps[0], before[0])
    assert torch.equal(made.maps[1][:50], before[1])
    assert len(made.maps[1].unique(dim=0)) == 60


def test_sure_rows_weigh_up_to_twice_as_much_and_the_mean_of_a_side_is_1():
    logits = torch.tensor([[50.0, 0, 0], [0, 0, 0], [1, 2, 3]], requires_grad=True)
    found = certainty(logits)
    p = logits.softmax(1)
    raw = 1 + torch.exp((p * p.log().clamp(min=-1e9)).nan_to_num().sum(1))
    torch.testing.assert_close(found, (raw / raw.mean()).detach())
    torch.testing.assert_close(raw[0], torch.tensor(2.0))
    assert not found.requires_grad


def test_a_class_that_is_ruled_out_is_as_if_it_were_not_there():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    four = torch.cat([logits, torch.full((7, 1), -torch.inf)], 1)
    torch.testing.assert_close(certainty(four), certainty(logits))
    assert torch.equal(certainty(torch.zeros(2, 1)), torch.ones(2))


@pytest.mark.parametrize("rows", [(8, 4), (1, 7)])
def test_the_weights_are_normalised_on_each_side_by_itself(rows):
    made, (source, target) = prepared(), (side(n, 4, 3, n) for n in rows)
    by_hand = 0
    for each, sign in ((source, -1), (target, 1)):
        p = each.logits.softmax(1)
        weights = 1 + torch.exp((p * p.log()).sum(1))
        said = made.critic((each.features[:, :, None] * p[:, None]).flatten(1)).flatten()
        by_hand += (weights * nn.functional.softplus(sign * said)).sum() / weights.sum() / 2
    torch.testing.assert_close(made.gap(None, source, target), by_hand)


@pytest.mark.parametrize("given", [{"hidden": 0}, {"randomized": 0}])
def test_sizes_are_whole_numbers_of_at_least_1(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        CDAN(**given)
