"""JAN compares features and answers together."""

import math

import pytest
import torch
from methods.sides import side
from models.test_kernels import by_hand

from everlearn.methods import DAN, JAN
from everlearn.models.kernels import discrepancy


def test_the_gap_is_the_discrepancy_under_the_product_of_the_kernels_by_hand():
    source, target = side(5), side(8, seed=1, shift=1.0)
    features = by_hand(torch.cat([source.features, target.features]).detach())
    p = torch.cat([source.logits, target.logits]).detach().double().softmax(1)
    answers = torch.tensor([[math.exp(-float(((a - b) ** 2).sum()) / (2 * 0.92**2)) for a in p] for b in p])
    torch.testing.assert_close(JAN().gap(None, source, target), discrepancy(features * answers, 5).float())


def test_answers_that_differ_are_a_gap_even_where_features_do_not():
    source, target = side(40), side(40, seed=1)
    said = [torch.zeros(40, 4) for _ in range(2)]
    said[0][:, 0] = said[1][:, 1] = 9.0
    source, target = source._replace(logits=said[0]), target._replace(logits=said[1])
    assert JAN().gap(None, source, target) > 0.1 + DAN().gap(None, source, target)


def test_the_gradient_reaches_features_and_answers_of_both_sides():
    sides = side(5), side(8, seed=1, shift=1.0)
    JAN().gap(None, *sides).backward()
    for each in sides:
        assert each.features.grad.abs().max() > 0
        assert each.logits.grad.abs().max() > 0


def test_a_width_that_is_none_is_refused():
    with pytest.raises(ValueError, match="sigma must be above 0, but is 0"):
        JAN(sigma=0)
