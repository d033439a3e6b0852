"""Ridge regression on random features, with a strength that is the best of seventeen on rows held out."""

import pytest
import torch
from methods.small import everything, experience, rows
from torch import nn
from torch.nn import functional as F

from everlearn.batch import take
from everlearn.data import Columns
from everlearn.data.order import epoch_order
from everlearn.learner import Learner
from everlearn.methods.ranpac import RanPAC
from everlearn.models.statistics import STRENGTHS, best_strength
from everlearn.objective import classify
from everlearn.streams import Experience


def noisy(index=0, count=100, noise=1.0):
    """Rows of four classes about corners, the more mixed the more noise."""
    random = torch.Generator().manual_seed(index)
    y = torch.randint(4, (count,), generator=random)
    x = torch.stack([y % 2, y // 2, y * 0, y * 0, y * 0 + 1], 1) + noise * torch.randn(count, 5, generator=random)
    return Experience(index, Columns(x=x, y=y), Columns(x=x, y=y), (0, 1, 2, 3))


def learned(*experiences, **given):
    learner = Learner(nn.Identity(), RanPAC(**{"M": 30} | given), optimizer=torch.optim.SGD)
    for each in experiences:
        learner.learn(each)
    return learner.method


def features(method, part):
    data = everything(part)
    return (data["x"].double() @ method.P).relu(), F.one_hot(data["y"], 4).double()


def test_with_a_fixed_strength_it_is_ridge_regression_on_random_features():
    method = learned(noisy(0), noisy(1), holdout=0, lambda_=10.0)
    pairs = [features(method, noisy(index).train) for index in range(2)]
    h, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    torch.testing.assert_close(method.solve()[0], torch.linalg.solve(h.T @ h + 10 * torch.eye(30), h.T @ y))
    asked = everything(rows(9, seed=5))["x"]
    answers = method.predict(nn.Identity(), {"x": asked}, classify)
    torch.testing.assert_close(answers.double(), (asked.double() @ method.P).relu() @ method.solve()[0])


@pytest.mark.parametrize("noise", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_strength_is_the_best_on_the_rows_held_out_of_the_current_experience(noise, index):
    """Against seventeen systems, each solved by itself, and the errors of the rows themselves."""
    parts = [noisy(each, noise=noise) for each in range(index + 1)]
    method = learned(*parts)
    order = epoch_order(100, 0, index, 0)
    h, y = features(method, parts[-1].train)
    (fit, held), (fit_y, held_y) = h[order].split([80, 20]), y[order].split([80, 20])
    errors = []
    for strength in STRENGTHS:
        weight = torch.linalg.solve(fit.T @ fit + strength * torch.eye(30), fit.T @ fit_y)
        errors.append(F.mse_loss(held @ weight, held_y))
    best = STRENGTHS[int(torch.stack(errors).argmin())]
    assert method.chosen == method.strength == best
    assert method.counts.sum() == 100 * (index + 1), "the rows held out are counted too"


def test_noise_makes_the_strength_grow():
    assert learned(noisy(noise=0.01)).chosen < learned(noisy(noise=3.0)).chosen


def test_all_strengths_share_one_factorisation(monkeypatch):
    calls = []
    for name in ("eigh", "solve", "cholesky", "cholesky_ex", "inv", "pinv", "svd", "qr", "lstsq"):
        plain = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda *a, n=name, f=plain, **k: calls.append(n) or f(*a, **k))
    method = learned(noisy())
    assert calls == ["eigh"]
    for _ in range(3):
        method.predict(nn.Identity(), {"x": torch.zeros(1, 5)}, classify)
    assert calls == ["eigh", "cholesky_ex"]


def test_the_errors_come_from_sums_that_know_no_row():
    h = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = F.one_hot(torch.arange(40) % 3).double()
    fit, held = slice(0, 30), slice(30, 40)
    best = best_strength(h[fit].T @ h[fit], y[fit].T @ h[fit], h[held].T @ h[held], y[held].T @ h[held])
    errors = [
        float((h[held] @ torch.linalg.solve(h[fit].T @ h[fit] + s * torch.eye(6), h[fit].T @ y[fit]) - y[held]).norm())
        for s in STRENGTHS
    ]
    assert best == STRENGTHS[errors.index(min(errors))]


def test_the_projection_is_normal_drawn_once_from_its_seed_and_from_nothing_else():
    before = torch.get_rng_state()
    method = learned(noisy(0), noisy(1), M=2000, holdout=0)
    assert torch.equal(before, torch.get_rng_state())
    assert method.P.shape == (5, 2000)
    assert abs(method.P.mean()) < 0.05
    assert method.P.std() == pytest.approx(1, abs=0.05)
    assert torch.equal(learned(noisy(5), M=2000, holdout=0).P, method.P)
    assert not torch.equal(learned(noisy(0), M=2000, holdout=0, seed=1).P, method.P)


def test_without_rows_to_hold_out_the_strength_stays():
    data = everything(rows(1))
    one = Experience(0, Columns(data), Columns(data), (0, 1, 2, 3))
    assert learned(one, lambda_=7.0).strength == 7.0
    assert learned(noisy(), holdout=0, lambda_=7.0).strength == 7.0


def test_a_stream_without_borders_keeps_the_strength():
    method = RanPAC(M=30, lambda_=7.0)
    for part in torch.arange(20).split(6):
        method(nn.Identity(), take(everything(experience().train), part), classify)
    assert method.strength == 7.0
    assert method.counts.sum() == 20


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"holdout must be a share from 0 to below 1, but is 1\.5"):
        RanPAC(holdout=1.5)
