"""MCC is the share of what is said of a class that is said of others along with it, on rows without labels alone."""

import math

import pytest
import torch
from methods.sides import side

from everlearn.methods import MCC
from everlearn.methods.mcc import confusion


def by_hand(logits, temperature):
    """The definition, entry by entry, in float64."""
    p = (logits.detach().double() / temperature).softmax(1).tolist()
    count, classes = len(p), len(p[0])
    weights = [1 + math.exp(sum(x * math.log(x) for x in row)) for row in p]
    weights = [weight * count / sum(weights) for weight in weights]
    m = [[sum(weights[i] * p[i][c] * p[i][d] for i in range(count)) for d in range(classes)] for c in range(classes)]
    return sum(m[c][d] / sum(m[c]) for c in range(classes) for d in range(classes) if c != d) / classes


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gap_is_the_confusion_by_hand(temperature):
    target = side(8, seed=1)
    assert MCC(temperature=temperature).gap(None, side(5), target).item() == pytest.approx(
        by_hand(target.logits, temperature), rel=1e-5
    )


def test_one_class_for_each_row_confuses_nothing_and_no_idea_confuses_all():
    assert confusion(100 * torch.eye(4), 1.0) == 0
    assert confusion(torch.zeros(6, 4), 2.5).item() == pytest.approx(3 / 4)


def test_a_class_that_is_out_of_the_question_leaves_the_gradient_finite():
    logits = torch.tensor([[0.0, 1.0, -1e6], [1.0, 0.0, -1e6]], requires_grad=True)
    confusion(logits, 2.5).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_labelled_rows_and_features_are_not_looked_at():
    source, target = side(5), side(8, seed=1)
    MCC().gap(None, source, target).backward()
    assert source.logits.grad is source.features.grad is target.features.grad is None


def test_the_weights_are_constants_to_the_gradient():
    logits = side(8, seed=1).logits
    confusion(logits, 2.5).backward()
    found, logits = logits.grad, logits.detach().clone().requires_grad_()
    p = (logits / 2.5).softmax(1)
    weights = (1 + (p * p.log()).sum(1).exp()).detach()
    m = torch.einsum("i,ic,id->cd", weights, p, p)
    m = m / m.sum(1, keepdim=True)
    (m[~torch.eye(4, dtype=torch.bool)].sum() / 4).backward()
    torch.testing.assert_close(found, logits.grad)


def test_a_temperature_that_is_none_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0, but is 0"):
        MCC(temperature=0)
