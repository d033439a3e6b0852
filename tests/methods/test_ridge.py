"""Ridge regression row by row is ridge regression."""

import pytest
import torch
from methods.small import everything, rows
from sklearn.linear_model import Ridge as Sklearn
from torch import nn
from torch.nn import functional as F

from everlearn.batch import take
from everlearn.methods.ridge import Ridge
from everlearn.objective import classify

DATA, ASKED = everything(rows(60)), everything(rows(20, seed=1))["x"]
X, TARGETS = DATA["x"].double(), F.one_hot(DATA["y"], 4).double()


def learned(size=60, order=None, **given):
    method = Ridge(**given)
    for part in (torch.arange(60) if order is None else order).split(size):
        method(nn.Identity(), take(DATA, part), classify)
    return method


def test_the_weights_are_those_of_scikit_learn_without_an_intercept():
    theirs = Sklearn(alpha=0.3, fit_intercept=False).fit(X.numpy(), TARGETS.numpy())
    method = learned(7, lambda_=0.3)
    torch.testing.assert_close(method.solve()[0], torch.from_numpy(theirs.coef_).T)
    torch.testing.assert_close(
        method.predict(nn.Identity(), {"x": ASKED}, classify), ASKED @ method.solve()[0].float(), rtol=1e-5, atol=1e-6
    )


def test_there_is_no_intercept():
    assert not learned().predict(nn.Identity(), {"x": torch.zeros(1, 5)}, classify).any()


@pytest.mark.parametrize("size", [1, 8, 60])
def test_the_recursion_of_the_paper_ends_at_the_same_weights(size):
    """R = (G + lambda I)^-1 and W, batch by batch, by Woodbury's identity."""
    inverse, weight = torch.eye(5, dtype=torch.float64) / 0.5, torch.zeros(5, 4, dtype=torch.float64)
    for part in torch.arange(60).split(size):
        h, y = X[part], TARGETS[part]
        gain = inverse @ h.T @ torch.linalg.inv(torch.eye(len(h)) + h @ inverse @ h.T)
        inverse = inverse - gain @ h @ inverse
        weight = weight + inverse @ h.T @ (y - h @ weight)
    torch.testing.assert_close(learned(size, lambda_=0.5).solve()[0], weight)


def test_classes_that_come_later_find_the_same_weights():
    order = DATA["y"].argsort(stable=True)
    torch.testing.assert_close(learned(5, order).solve()[0], learned().solve()[0])


@pytest.mark.parametrize(("precision", "near"), [("float64", 1e-6), ("float32", 1e-3)])
def test_many_ill_scaled_rows_end_near_the_exact_weights(precision, near):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 6, generator=random) * torch.tensor([1, 3, 10, 30, 1, 1])
    y = torch.randint(3, (20_000,), generator=random)
    method = Ridge(precision=precision)
    for part in torch.arange(20_000).split(500):
        method(nn.Identity(), {"x": x[part], "y": y[part]}, classify)
    wide = x.double()
    exact = torch.linalg.solve(wide.T @ wide + torch.eye(6), wide.T @ F.one_hot(y).double())
    torch.testing.assert_close(method.solve()[0].double(), exact, rtol=near, atol=near * float(exact.abs().max()))


def test_a_singular_system_names_the_way_out():
    method = Ridge(lambda_=0.0)
    method(nn.Identity(), {"x": torch.ones(4, 3), "y": torch.arange(4)}, classify)
    with pytest.raises(ValueError, match=r"singular .* lambda must be larger than 0"):
        method.predict(nn.Identity(), {"x": torch.ones(1, 3)}, classify)
