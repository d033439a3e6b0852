"""Validators against what a person computes by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from everlearn.transfer.validators import accuracy, controlled, dev, entropy, importance, information, snd


def logits_of(*rows):
    """Logits whose softmax these are."""
    return torch.tensor(rows, dtype=torch.float64).log()


def test_accuracy_counts_the_largest_logit():
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert accuracy(logits, torch.tensor([1, 0, 2, 0])) == 0.75


def test_entropy_and_information_are_those_computed_by_hand():
    p = [[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]]

    def h(row):
        return -sum(x * math.log(x) for x in row)

    mean = [sum(row[c] for row in p) / 3 for c in range(2)]
    expected = sum(map(h, p)) / 3
    assert entropy(logits_of(*p)) == pytest.approx(-expected, abs=1e-12)
    assert information(logits_of(*p)) == pytest.approx(h(mean) - expected, abs=1e-12)


def test_information_tells_a_collapsed_model_from_a_sure_one_and_entropy_does_not():
    sure, collapsed = 50 * torch.eye(4), torch.tensor([[50.0, 0, 0, 0]] * 4)
    assert entropy(sure) == pytest.approx(entropy(collapsed), abs=1e-12)
    assert information(sure) == pytest.approx(math.log(4), abs=1e-9)
    assert information(collapsed) == pytest.approx(0, abs=1e-9)


def test_a_probability_of_zero_adds_nothing():
    assert entropy(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])) == 0
    assert entropy(torch.tensor([[2000.0, 0.0]])) == 0


def test_snd_is_the_entropy_over_neighbours_row_by_row():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    p = [torch.softmax(row, 0) for row in logits]
    total = 0.0
    for i in range(7):
        near = [math.exp(float(F.cosine_similarity(p[i], p[j], dim=0)) / 0.05) for j in range(7) if j != i]
        total -= sum(n / sum(near) * math.log(n / sum(near)) for n in near)
    assert snd(logits) == pytest.approx(total / 7, abs=1e-9)


def test_snd_is_the_same_when_its_matrix_is_made_in_pieces():
    logits = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))
    z = F.normalize(logits.double().softmax(1))
    near = (z @ z.T / 0.05).fill_diagonal_(-math.inf).softmax(1)
    assert snd(logits) == pytest.approx(float(torch.special.entr(near).sum(1).mean()), abs=1e-9)


def test_snd_prefers_predictions_that_form_clusters():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    clusters = 6 * F.one_hot(y, 3) + 0.1 * torch.randn(60, 3, generator=generator)
    scattered = 2 * torch.randn(60, 3, generator=generator)
    assert snd(clusters) > snd(scattered)


def test_the_control_variate_is_that_of_the_paper():
    w, loss = torch.tensor([0.5, 1.0, 2.0, 1.5]), torch.tensor([1.0, 0.2, 0.4, 3.0])
    weighted = [a * b for a, b in zip(w.tolist(), loss.tolist(), strict=True)]
    mean_l, mean_w = sum(weighted) / 4, sum(w.tolist()) / 4
    cov = sum((a - mean_l) * (b - mean_w) for a, b in zip(weighted, w.tolist(), strict=True)) / 3
    eta = -cov / (sum((b - mean_w) ** 2 for b in w.tolist()) / 3)
    assert controlled(w, loss) == pytest.approx(mean_l + eta * mean_w - eta, abs=1e-6)


def test_importances_are_the_ratio_of_densities():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(4000, 2, generator=generator)
    target = torch.randn(2000, 2, generator=generator) + torch.tensor([0.8, 0.0])
    at = torch.tensor([[0.0, 0.0], [0.4, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    exact = torch.exp(0.8 * at[:, 0] - 0.32).double()  # of N(0.8, 1) to N(0, 1)
    assert torch.allclose(importance(source, target, at), exact, rtol=0.12)


def test_importances_do_not_depend_on_the_scale_of_features_nor_on_a_dead_one():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(50, 3, generator=generator), torch.randn(40, 3, generator=generator) + 0.5
    scale = torch.tensor([1.0, 1000.0, 0.001])
    dead = F.pad(source * scale + 7, (0, 1)), F.pad(target * scale + 7, (0, 1))
    torch.testing.assert_close(
        importance(source, target, source), importance(*dead, dead[0]), rtol=1e-4, atol=1e-4, check_dtype=False
    )


def shifted():
    """Held-out source rows of which those of the right half are answered wrong, and a target that is the right half."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3000, 1, generator=generator)
    target = torch.randn(3000, 1, generator=generator) + 1
    y = torch.zeros(3000, dtype=torch.int64)
    right = torch.stack([1 - 2 * source[:, 0], 2 * source[:, 0] - 1], 1)
    return right, y, source, target


def test_dev_estimates_the_risk_on_the_target_and_the_plain_mean_does_not():
    logits, y, source, target = shifted()
    there = torch.stack([1 - 2 * target[:, 0], 2 * target[:, 0] - 1], 1)
    true = float(F.cross_entropy(there, y))
    naive = float(F.cross_entropy(logits, y))
    risk = -dev(logits, y, source, target)
    assert abs(risk - true) < 0.1 * true
    assert abs(naive - true) > 0.3 * true


def test_dev_without_a_shift_is_the_plain_risk():
    logits, y, source, _ = shifted()
    assert -dev(logits, y, source, source) == pytest.approx(float(F.cross_entropy(logits, y)), rel=0.01)


def test_weights_that_are_equal_but_for_rounding_control_nothing():
    w, losses = torch.full((50,), 0.9, dtype=torch.float64), torch.rand(50, generator=torch.Generator().manual_seed(0))
    w[::3] += 1.2e-16
    assert float(w.var()) > 0
    assert controlled(w, losses) == pytest.approx(0.9 * float(losses.mean()))


def test_no_temperature_is_no_number():
    with pytest.raises(ValueError, match="temperature must be above 0, but is nan"):
        snd(torch.zeros(3, 3), math.nan)
