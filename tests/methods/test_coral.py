"""CORAL compares covariances, with the 1/(4 d^2) of the paper."""

import numpy as np
import pytest
import torch
from methods.sides import side

from everlearn.methods import CORAL


@pytest.mark.parametrize(("first", "second"), [(5, 8), (8, 5), (2, 9)])
def test_the_gap_is_that_of_the_covariances_of_numpy_over_four_times_the_square_of_the_width(first, second):
    source, target = side(first, width=6), side(second, width=6, seed=1)
    a, b = (np.cov(each.features.detach().double().numpy().T) for each in (source, target))
    expected = np.linalg.norm(a - b, "fro") ** 2 / (4 * 6**2)
    assert CORAL().gap(None, source, target).item() == pytest.approx(expected, rel=1e-5)


def test_means_are_left_alone_unless_asked_for():
    source = side(9)
    target = source._replace(features=source.features.detach() + 2)
    assert CORAL().gap(None, source, target).item() == pytest.approx(0, abs=1e-10)
    assert CORAL(mean=True).gap(None, source, target).item() == pytest.approx(4, rel=1e-5)


def test_one_row_has_no_covariance():
    source, alone = side(9), side(1, seed=1)
    expected = np.linalg.norm(np.cov(source.features.detach().numpy().T)) ** 2 / (4 * 6**2)
    assert CORAL().gap(None, source, alone).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_definition():
    source, target = side(5), side(8, seed=1)
    CORAL().gap(None, source, target).backward()
    found, features = target.features.grad, target.features.detach().clone().requires_grad_()
    apart = torch.cov(source.features.detach().T) - torch.cov(features.T)
    (apart.square().sum() / (4 * 36)).backward()
    torch.testing.assert_close(found, features.grad)
