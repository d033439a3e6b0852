"""What alignment without an adversary owes beyond the contract: a gap in float32 that bears any features."""

import pytest
import torch
from methods.sides import batch, side
from methods.small import experience, net

from everlearn.methods import AFN, CORAL, DAN, JAN, MCC
from everlearn.objective import classify

every_gap = pytest.mark.parametrize("make", [lambda: CORAL(trade_off=10.0), DAN, JAN, MCC, AFN])


@every_gap
def test_the_gap_under_autocast_is_that_of_the_same_numbers_in_float32(make):
    model, method, seen = net(), make(), []
    method.begin(model, experience(), classify)

    class Watched(type(method)):
        def gap(self, model, source, target):
            seen.append((source, target, super().gap(model, source, target)))
            return seen[0][2]

    method.__class__ = Watched
    with torch.autocast("cpu", torch.bfloat16):
        method(model, batch(), classify)
    source, target, gap = seen[0]
    assert torch.equal(gap, make().gap(model, source, target))


@every_gap
def test_features_that_are_all_the_same_leave_the_gradient_finite(make):
    for value in (0.0, 1000.0):
        sides = [each._replace(features=torch.full_like(each.features, value)) for each in (side(5), side(8))]
        for each in sides:
            each.features.requires_grad_()
        make().gap(net(), *sides).backward()
        for each in sides:
            assert each.features.grad is None or each.features.grad.abs().max() < 1e3
