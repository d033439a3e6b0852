"""MDD: the value of its disparity, and what it does where probabilities are 0 or 1."""

import pytest
import torch

from everlearn.methods import MDD
from everlearn.methods.aligned import Side
from everlearn.methods.mdd import otherwise


def sides(rows=(6, 9), classes=4, width=5):
    random = torch.Generator().manual_seed(0)
    return [Side(torch.randn(n, width, generator=random), torch.randn(n, classes, generator=random), None)
            if n == rows[1] else
            Side(torch.randn(n, width, generator=random), torch.randn(n, classes, generator=random), torch.zeros(n))
            for n in rows]  # fmt: skip


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_the_gap_is_the_margin_disparity_row_by_row(margin):
    made = MDD(margin=margin, hidden=16, gamma=0.0)
    made.prepare(5, 4, torch.device("cpu"))
    with torch.no_grad():
        made.critic[0].weight.mul_(100)
        made.critic[2].weight.mul_(30)
    source, target = sides()
    target = target._replace(y=torch.full((9,), -100))
    agreeing = other = 0.0
    for features, logits in zip(*source[:2], strict=True):
        agreeing += -made.critic(features).softmax(0)[logits.argmax()].log() / 6
    for features, logits in zip(*target[:2], strict=True):
        other += -(1 - made.critic(features).softmax(0)[logits.argmax()]).log() / 9
    torch.testing.assert_close(made.gap(None, source, target), margin * agreeing + other)


def test_where_the_second_head_is_sure_the_value_is_finite_and_has_a_gradient():
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    found = otherwise(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([200 - torch.tensor(2.0).log(), 0.0]))
    found.sum().backward()
    assert logits.grad.isfinite().all()
    assert float(logits.grad[0, 0]) == 1


def test_the_gradient_is_that_of_the_definition():
    logits, y = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.arange(7) % 4
    plain = -(1 - logits.softmax(1).gather(1, y[:, None])).log().sum()
    mine = torch.autograd.grad(otherwise(logits, y).sum(), logits)
    torch.testing.assert_close(mine, torch.autograd.grad(plain, logits))


def test_the_second_head_is_drawn_small_and_anew_when_classes_come():
    made = MDD(hidden=300)
    made.prepare(50, 3, torch.device("cpu"))
    assert 0.0095 < float(made.critic[0].weight.detach().std()) < 0.0105
    assert made.critic.widths == (50, 300, 3)
    made.prepare(50, 5, torch.device("cpu"))
    assert made.critic.widths == (50, 300, 5)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        otherwise(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
