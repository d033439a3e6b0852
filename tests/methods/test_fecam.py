"""Mahalanobis distances from the covariance of each class, as the paper builds it."""

import numpy as np
import pytest
import torch
from torch import nn

from everlearn.batch import take
from everlearn.methods.fecam import FeCAM
from everlearn.objective import classify

RANDOM = torch.Generator().manual_seed(0)
Y = torch.arange(80) % 4
X = (torch.randn(80, 5, generator=RANDOM) + 2 * torch.nn.functional.one_hot(Y, 5)).relu()
ASKED = torch.randn(20, 5, generator=RANDOM).abs()


def learned(size=80, **given):
    method = FeCAM(**given)
    for part in torch.randperm(80, generator=torch.Generator().manual_seed(size)).split(size):
        method(nn.Identity(), take({"x": X, "y": Y}, part), classify)
    return method


def answers(method, x=ASKED):
    return method.predict(nn.Identity(), {"x": x}, classify)


def by_hand(gamma1, gamma2, power):
    x, asked = X.double().numpy() ** power, ASKED.double().numpy() ** power
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    scores = []
    for label in range(4):
        mine = x[Y.numpy() == label]
        cov = np.cov(mine.T)
        off = cov[~np.eye(5, dtype=bool)].mean()
        cov = cov + gamma1 * np.diag(cov).mean() * np.eye(5) + gamma2 * off * (1 - np.eye(5))
        std = np.sqrt(np.diag(cov))
        inverse = np.linalg.pinv(cov / np.outer(std, std))
        away = asked - mine.mean(0) / np.linalg.norm(mine.mean(0))
        scores.append(-np.einsum("nd,de,ne->n", away, inverse, away))
    return np.stack(scores, 1)


@pytest.mark.parametrize("size", [1, 9, 80])
@pytest.mark.parametrize(("gamma1", "gamma2", "power"), [(1, 1, 0.5), (10, 3, 0.5), (1, 0, 1), (0.1, 0.1, 0.8)])
def test_the_scores_are_those_of_the_equation(size, gamma1, gamma2, power):
    ours = answers(learned(size, gamma1=gamma1, gamma2=gamma2, lambda_=power))
    np.testing.assert_allclose(ours, by_hand(gamma1, gamma2, power), rtol=1e-4, atol=1e-5)


def test_the_covariance_is_that_of_each_class_whatever_the_batches():
    method = learned(7, lambda_=1.0)
    for label in range(4):
        expected = np.cov(X[label == Y].double().numpy().T, bias=True) * 20
        np.testing.assert_allclose(method.scatter[label], expected, rtol=1e-9, atol=1e-12)


def test_the_scale_of_the_features_makes_no_difference():
    big = FeCAM()
    big(nn.Identity(), {"x": X * 1000, "y": Y}, classify)
    torch.testing.assert_close(answers(big, ASKED * 50), answers(learned()), rtol=1e-4, atol=1e-5)


def test_a_class_of_one_row_or_of_equal_rows_is_at_its_euclidean_distance():
    method = FeCAM(lambda_=1.0)
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    method(nn.Identity(), {"x": x, "y": torch.tensor([0, 1, 1])}, classify)
    found = answers(method, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[-(0.6**2 + 0.2**2), -2.0]]))


def test_features_that_always_add_up_to_one_have_a_distance_too():
    """Probabilities: with gamma1 = gamma2 the shrunk covariance has no inverse, and the pseudo-inverse serves."""
    method = FeCAM(lambda_=1.0)
    x = (3 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))).softmax(1)
    method(nn.Identity(), {"x": x, "y": torch.arange(60) % 2}, classify)
    assert answers(method, x).isfinite().all()
    assert answers(method, x).abs().max() < 1e3


def test_dead_features_do_no_harm():
    method = FeCAM()
    method(nn.Identity(), {"x": torch.cat([X, torch.zeros(80, 3)], 1), "y": Y}, classify)
    assert answers(method, torch.cat([ASKED, torch.zeros(20, 3)], 1)).isfinite().all()


def test_negative_features_have_no_power_and_say_so():
    with pytest.raises(ValueError, match=r"features as low as -1 have no power 0\.5; lambda_=1 leaves them alone"):
        FeCAM()(nn.Identity(), {"x": -torch.ones(1, 2), "y": torch.zeros(1, dtype=torch.long)}, classify)


@pytest.mark.parametrize("power", [0.0, -1.0, 2.0])
def test_a_power_that_makes_no_sense_is_refused(power):
    with pytest.raises(ValueError, match="a power, must be above 0 and at most 1"):
        FeCAM(lambda_=power)
