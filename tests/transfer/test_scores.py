"""Scores against the equations they stand for, computed the long way round."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from everlearn.transfer.scores import SCORES, h_score, knn, leep, logme, n_leep, ridge

pytest.importorskip("sklearn")


def data(rows, width, classes, signal=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    means = torch.randn(classes, width, generator=generator)
    return torch.randn(rows, width, generator=generator) + signal * means[y], y


def evidence(f, target, alpha, beta):
    """The log-density of N(0, I/β + F Fᵀ/α), which needs no posterior and no decomposition, for each pair."""
    covariance = torch.eye(len(f), dtype=torch.float64) / beta[:, None, None] + f @ f.T / alpha[:, None, None]
    root, failed = torch.linalg.cholesky_ex(covariance)
    fit = torch.linalg.solve_triangular(root, target[:, None], upper=False).square().sum((1, 2))
    value = -fit / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1) - len(f) / 2 * math.log(2 * math.pi)
    return torch.where(failed > 0, -math.inf, value)  # no density to the last bit of a float: far from any maximum


def most_evident(f, target):
    """The maximum over α and β: of a fine grid of their logarithms, and of ever finer ones around its best."""
    middle, span, count = torch.zeros(2, dtype=torch.float64), 30.0, 61
    while span > 1e-3:
        steps = torch.linspace(-span, span, count, dtype=torch.float64)
        pairs = middle + torch.cartesian_prod(steps, steps)
        values = evidence(f, target, *pairs.exp().T)
        middle, best = pairs[values.argmax()], float(values.max())
        span, count = 3 * span / (count // 2), 13
    return best


@pytest.mark.parametrize(("rows", "width", "classes"), [(20, 4, 2), (24, 6, 3), (12, 30, 3)])
def test_logme_is_the_maximum_of_the_evidence(rows, width, classes):
    f, y = data(rows, width, classes)
    expected = np.mean([most_evident(f.double(), (y == c).double()) / rows for c in range(classes)])
    assert logme(f, y) == pytest.approx(expected, abs=1e-4)


def test_logme_of_a_regression_is_the_maximum_of_the_evidence():
    f, _ = data(25, 5, 2)
    y = f @ torch.tensor([1.0, -2.0, 0.5, 0.0, 0.0]) + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(1))
    expected = most_evident(f.double(), y.double()) / 25
    assert logme(f, y) == pytest.approx(expected, abs=1e-4)
    assert logme(f, y[:, None]) == logme(f, y)


def published(f, y, classes):
    """One class after the other, as the paper's Algorithm 3 is written."""
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    rows, width = f.shape
    values = []
    for c in range(classes):
        target = (y == c).astype(float)
        x2 = (u.T @ target) ** 2
        rest = (target**2).sum() - x2.sum()
        alpha = beta = 1.0
        for _ in range(500):
            t = alpha / beta
            gamma = (s**2 / (s**2 + t)).sum()
            m2 = (s**2 * x2 / (t + s**2) ** 2).sum()
            r2 = (x2 / (1 + s**2 / t) ** 2).sum() + rest
            alpha, beta = gamma / m2, (rows - gamma) / r2
        value = width / 2 * np.log(alpha) + rows / 2 * np.log(beta) - np.log(alpha + beta * s**2).sum() / 2
        values.append((value - beta / 2 * r2 - alpha / 2 * m2 - rows / 2 * np.log(2 * np.pi)) / rows)
    return np.mean(values)


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 8, 4), (200, 32, 10), (90, 60, 3)])
def test_logme_of_all_classes_at_once_is_that_of_each(rows, width, classes):
    f, y = data(rows, width, classes, signal=0.5)
    assert logme(f, y) == pytest.approx(published(f.double().numpy(), y.numpy(), classes), abs=1e-6)


def test_logme_has_an_answer_where_features_say_everything_or_nothing():
    y = torch.arange(12) % 3
    everything = logme(F.one_hot(y, 3).float(), y)
    nothing = logme(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), y)
    assert math.isfinite(everything)
    assert math.isfinite(nothing)
    assert everything > nothing
    assert math.isfinite(logme(torch.ones(12, 3).index_fill(0, torch.tensor([0]), 1 + 1e-6), y))


def test_the_h_score_is_the_trace_of_its_equation():
    from sklearn.covariance import ledoit_wolf

    f, y = data(40, 6, 4)
    centred = f.double().numpy() - f.double().numpy().mean(0)
    covariance, shrinkage = ledoit_wolf(centred)
    of_means = np.stack([centred[y.numpy() == label].mean(0) for label in y.tolist()])
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ np.cov(of_means.T, bias=True))
    assert h_score(f, y) == pytest.approx(expected, rel=1e-9)


def test_the_h_score_has_an_answer_with_more_dimensions_than_rows():
    f, y = data(12, 50, 3)
    assert 0 < h_score(f, y) < 3
    assert math.isfinite(h_score(f[:2], y[:2]))
    assert math.isfinite(h_score(F.pad(f, (0, 5)), y))  # dead dimensions


def test_leep_is_the_mean_log_of_expected_labels():
    posteriors = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    labels = np.array([0, 1, 1])
    given = np.array([[0.9 / 1.7, 0.1 / 1.3], [0.8 / 1.7, 1.2 / 1.3]])  # P(y | z)
    expected = np.mean([np.log(posteriors[i] @ given[labels[i]]) for i in range(3)])
    assert leep(posteriors, labels) == pytest.approx(expected, abs=1e-12)


def test_n_leep_is_near_zero_for_clusters_that_are_classes():
    f, y = data(90, 8, 3, signal=20)
    assert n_leep(f, y) > -0.01
    assert n_leep(f, y[torch.randperm(90, generator=torch.Generator().manual_seed(0))]) < -0.5


def test_probes_are_right_about_what_can_be_told_apart_and_guess_what_cannot():
    for probe in (knn, ridge):
        assert probe(*data(100, 8, 4, signal=10)) == 1.0
        assert abs(probe(*data(400, 8, 4, signal=0)) - 0.25) < 0.08


def test_the_neighbours_are_those_of_the_cosine_and_near_ones_count_more():
    from sklearn.model_selection import StratifiedKFold

    f, y = data(60, 3, 3, signal=0.8)
    f = f * torch.logspace(-1, 2, 60)[:, None]  # lengths say nothing
    unit = F.normalize(f.double())
    right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(y, y):
        for row in test:
            near = (2 - 2 * unit[train] @ unit[row]).clamp_min(0).sqrt()
            nearest = near.argsort()[:5]
            votes = torch.zeros(3).double().index_add_(0, y[train][nearest], 1 / near[nearest])
            right += int(votes.argmax() == y[row])
    assert knn(f, y) == right / 60


@pytest.mark.parametrize("name", SCORES)
def test_each_score_prefers_the_features_that_tell_classes_apart(name):
    weak, y = data(120, 10, 4, signal=0.2)
    strong, _ = data(120, 10, 4, signal=2.0)
    assert SCORES[name](strong, y) > SCORES[name](weak, y)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_a_function_of_its_arguments(name):
    f, y = data(60, 5, 3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = SCORES[name](f, y)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert SCORES[name](f, y) == first
    assert SCORES[name](f, 7 * y + 3) == pytest.approx(first)  # what classes are called is of no matter
    torch.set_rng_state(before[0])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("f", "y", "said"),
    [
        (torch.randn(6, 2), torch.zeros(6, dtype=torch.int64), "all rows are of one class"),
        (torch.randn(6, 2), torch.arange(5), "one label for each"),
        (torch.full((6, 2), math.nan), torch.arange(6) % 2, "not finite"),
        (torch.ones(6, 2), torch.arange(6) % 2, "the same features"),
    ],
)
def test_what_has_no_score_is_an_error_that_says_why(name, f, y, said):
    with pytest.raises(ValueError, match=said):
        SCORES[name](f, y)


@pytest.mark.parametrize("probe", [knn, ridge])
def test_a_probe_needs_two_rows_of_each_class(probe):
    with pytest.raises(ValueError, match="at least 2 rows of each class"):
        probe(torch.randn(5, 2), torch.tensor([0, 0, 1, 1, 2]))
    assert 0 <= probe(torch.randn(4, 2), torch.tensor([0, 0, 1, 1])) <= 1


@pytest.mark.parametrize(("rows", "width"), [(20, 50), (40, 6)])
def test_logme_of_a_class_with_one_row_is_the_maximum_of_the_evidence(rows, width):
    f, _ = data(rows, width, 2)
    y = (torch.arange(rows) == 7).long()
    expected = np.mean([most_evident(f.double(), (y == c).double()) / rows for c in (0, 1)])
    assert logme(f, y) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rows", [2, 3, 4, 6, 9])
def test_n_leep_has_an_answer_with_fewer_rows_than_components(rows):
    f = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))
    assert -1 <= n_leep(f, torch.arange(rows) % 2) <= 0


def test_features_that_never_change_leave_the_h_score_finite():
    f = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert 0 < h_score(torch.cat([f, torch.full((30, 2), 7.0)], 1), torch.arange(30) % 3) < 2
