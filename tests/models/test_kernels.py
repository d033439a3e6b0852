"""Kernels and the discrepancy, against double loops in float64."""

import math

import pytest
import torch

from everlearn.models.kernels import SCALES, discrepancy, gaussian, squared_distances


def by_hand(x, scales=SCALES):
    """The mean of the kernels, entry by entry."""
    x = x.double()
    count = len(x)
    apart = [[float(((x[i] - x[j]) ** 2).sum()) for j in range(count)] for i in range(count)]
    variance = sum(map(sum, apart)) / (count * (count - 1))
    values = [[sum(math.exp(-d / (2 * s * variance)) for s in scales) / len(scales) for d in row] for row in apart]
    return torch.tensor(values)


def rows(count, shift=0.0, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_kernel_is_the_mean_of_five_gaussians():
    x = torch.cat([rows(4), rows(7, 1.0, 1)])
    torch.testing.assert_close(gaussian(x), by_hand(x).float())


@pytest.mark.parametrize(("first", "second"), [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (1, 1)])
def test_the_discrepancy_is_that_of_double_loops(first, second):
    k = by_hand(torch.cat([rows(first), rows(second, 0.5, 1)]))

    def mean(pairs):
        return sum(float(k[i, j]) for i, j in pairs) / len(pairs)

    def within(side):
        return mean([(i, j) for i in side for j in side if i != j or len(side) == 1])

    mine, theirs = range(first), range(first, first + second)
    expected = within(mine) + within(theirs) - 2 * mean([(i, j) for i in mine for j in theirs])
    assert discrepancy(k, first).item() == pytest.approx(expected, abs=1e-6)


def test_the_estimate_is_unbiased_so_without_a_difference_it_is_0_on_average():
    found = [discrepancy(gaussian(torch.cat([rows(6, seed=2 * i), rows(9, seed=2 * i + 1)])), 6) for i in range(400)]
    values = torch.stack(found)
    assert abs(values.mean()) < 3 * values.std() / 20
    assert (values < 0).any()
    assert discrepancy(gaussian(torch.cat([rows(6), rows(9, 2.0, 1)])), 6) > 0.3


def test_the_width_of_the_kernels_is_a_constant_to_the_gradient():
    x = torch.cat([rows(5), rows(4, 1.0, 1)]).requires_grad_()
    discrepancy(gaussian(x), 5).backward()
    y = x.detach().clone().requires_grad_()
    apart = torch.cdist(y[:, None].double(), y[None].double()).new_empty(0)
    apart = ((y[:, None] - y[None]) ** 2).sum(2)
    variance = apart.detach().sum() / (9 * 8)
    discrepancy(sum((-apart / (2 * s * variance)).exp() for s in SCALES) / 5, 5).backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_scaling_the_features_changes_nothing():
    x = torch.cat([rows(5), rows(4, 1.0, 1)])
    torch.testing.assert_close(gaussian(1000 * x), gaussian(x))


def test_distances_far_from_the_origin_keep_their_digits():
    x = rows(6)
    torch.testing.assert_close(squared_distances(x + 1000), squared_distances(x), rtol=1e-3, atol=1e-3)
    assert not squared_distances(x).diagonal().any()
