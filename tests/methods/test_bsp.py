"""BSP: the largest singular values of the features, and no more."""

import pytest
import torch

from everlearn.methods import BSP
from everlearn.methods.aligned import Side


def side(rows, width=5, seed=0):
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Side(features.requires_grad_(), torch.zeros(rows, 2), None)


@pytest.mark.parametrize("rows", [(8, 4), (1, 7), (3, 3)])
def test_the_gap_is_the_largest_eigenvalue_of_both_gram_matrices(rows):
    source, target = side(rows[0], seed=1), side(rows[1], seed=2)
    by_hand = sum(torch.linalg.eigvalsh(each.features.T @ each.features)[-1] for each in (source, target))
    torch.testing.assert_close(BSP().gap(None, source, target), by_hand)


def test_its_gradient_is_that_of_the_first_pair_of_singular_vectors():
    source, target = side(8, seed=1), side(4, seed=2)
    BSP().gap(None, source, target).backward()
    for each in (source, target):
        u, s, v = torch.linalg.svd(each.features.detach())
        torch.testing.assert_close(each.features.grad, 2 * s[0] * torch.outer(u[:, 0], v[0]))


def test_features_of_zeros_have_a_finite_gradient():
    zeros = Side(torch.zeros(3, 5, requires_grad=True), torch.zeros(3, 2), None)
    BSP().gap(None, zeros, zeros).backward()
    assert zeros.features.grad.isfinite().all()
