"""AFN makes each feature vector longer by a step, whatever its length."""

import pytest
import torch
from methods.sides import side

from everlearn.methods import AFN


def test_the_gap_is_twice_the_square_of_the_step_and_its_gradient_points_outwards():
    sides = side(5), side(8, seed=1)
    gap = AFN(delta=0.5).gap(None, *sides)
    assert gap.item() == pytest.approx(0.5)
    gap.backward()
    for each in sides:
        f = each.features.detach()
        torch.testing.assert_close(each.features.grad, -2 * 0.5 * f / f.norm(dim=1, keepdim=True) / len(f))


def test_each_side_weighs_the_same_however_many_rows_it_has():
    sides = side(5), side(50, seed=1)
    AFN().gap(None, *sides).backward()
    one, other = (each.features.grad.norm(dim=1).sum() for each in sides)
    torch.testing.assert_close(one, other)


def test_a_feature_vector_of_zeros_stays_one():
    source, target = side(5), side(8, seed=1)
    zeros = torch.zeros(8, 6, requires_grad=True)
    AFN().gap(None, source, target._replace(features=zeros)).backward()
    assert not zeros.grad.any()
