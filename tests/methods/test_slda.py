"""Streaming discriminant analysis is the recursion of the paper, or exactly the analysis of all rows at once."""

import numpy as np
import pytest
import torch
from methods.small import everything, rows
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn
from torch.nn import functional as F

from everlearn.batch import take
from everlearn.methods.slda import SLDA
from everlearn.models.statistics import centred, deviations
from everlearn.objective import classify

DATA, ASKED = everything(rows(60)), everything(rows(20, seed=1))["x"]
X, Y = DATA["x"].double().numpy(), DATA["y"].numpy()


def learned(size=60, order=None, **given):
    method = SLDA(**given)
    for part in (torch.arange(60) if order is None else order).split(size):
        method(nn.Identity(), take(DATA, part), classify)
    return method


def row_by_row(*, exact):
    """The recursion as the paper writes it down; `exact` counts the rows of the class in its weight."""
    mean, counts, sigma = np.zeros((4, 5)), np.zeros(4), np.zeros((5, 5))
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):
        c = counts[y] if exact else n
        delta = c / (c + 1) * np.outer(x - mean[y], x - mean[y])
        sigma = (n * sigma + delta) / (n + 1)
        mean[y] = (counts[y] * mean[y] + x) / (counts[y] + 1)
        counts[y] += 1
    return mean, sigma


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_batch_gives_what_its_rows_give_one_by_one(exact, size):
    mean, sigma = row_by_row(exact=exact)
    method = learned(size, exact=exact)
    np.testing.assert_allclose(method.scatter / 60, sigma, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(method.sums / method.counts.unsqueeze(1), mean, rtol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_the_answers_are_those_of_the_paper(exact):
    mean, sigma = row_by_row(exact=exact)
    inverse = np.linalg.inv((1 - 0.05) * sigma + 0.05 * np.eye(5))
    expected = ASKED.numpy() @ inverse @ mean.T - np.einsum("kd,de,ke->k", mean, inverse, mean) / 2
    method = learned(8, exact=exact, eps=0.05)
    np.testing.assert_allclose(method.predict(nn.Identity(), {"x": ASKED}, classify), expected, rtol=1e-4, atol=1e-4)


def test_rows_at_once_add_what_they_add_one_by_one():
    h, y = torch.from_numpy(X) + 1e3, torch.from_numpy(Y)
    counts, sums = torch.bincount(y[:25], minlength=6), F.one_hot(y[:25], 6).double().T @ h[:25]
    away, before, _ = deviations(h[25:], y[25:], counts, sums)
    apart = centred(h[25:], y[25:], F.one_hot(y[25:], len(counts)).to(h).T @ h[25:], counts, sums)
    torch.testing.assert_close(apart.T @ apart, (away * (before / (before + 1)).unsqueeze(1)).T @ away)


def test_exact_is_the_covariance_within_classes_whatever_the_order():
    centred = np.concatenate([X[label == Y] - X[label == Y].mean(0) for label in range(4)])
    for seed in range(3):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(learned(7, order).scatter / 60, centred.T @ centred / 60, rtol=1e-9, atol=1e-12)


def test_exact_is_the_discriminant_analysis_of_scikit_learn():
    """With equal priors and eps near 0: the same classes, and the same differences between their scores."""
    flat = np.full(4, 1 / 4)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=flat)
    # Its covariance weighs classes by their priors: rows of equal numbers make that the same as all rows alike.
    each = np.concatenate([np.flatnonzero(label == Y)[:10] for label in range(4)])
    theirs.fit(X[each], Y[each])
    method = SLDA(eps=1e-9)
    method(nn.Identity(), take(DATA, torch.from_numpy(each)), classify)
    ours = method.predict(nn.Identity(), {"x": ASKED}, classify).numpy()
    scores = theirs.decision_function(ASKED.numpy())
    np.testing.assert_allclose(ours - ours[:, :1], scores - scores[:, :1], rtol=1e-4, atol=1e-4)


def test_the_papers_recursion_ends_near_the_exact_one():
    exact, paper = learned(7).scatter, learned(7, exact=False).scatter
    away = float((exact - paper).norm() / exact.norm())
    assert 1e-3 < away < 0.2


def test_features_on_a_line_need_eps():
    x = torch.arange(12.0).unsqueeze(1).expand(12, 3)
    method = SLDA(eps=0.0)
    method(nn.Identity(), {"x": x, "y": torch.arange(12) % 2}, classify)
    with pytest.raises(ValueError, match=r"singular .* eps must be larger than 0"):
        method.predict(nn.Identity(), {"x": x}, classify)
