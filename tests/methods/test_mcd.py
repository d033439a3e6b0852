"""MCD: its gradients are those of the three phases of the paper, in one step."""

import pytest
import torch
from adaptation import batch, learner
from torch.nn import functional as F

from everlearn.methods import MCD, Naive
from everlearn.objective import classify


def begun(**options):
    model, made = learner(Naive()).model.eval(), MCD(**{"gamma": 0.0} | options)
    made.prepare(32, 10, torch.device("cpu"))
    return model, made


def parts(model, made):
    """The losses of both heads on the source, and their difference on the target, for autograd."""
    rows = batch()
    features = model[:-1](rows["x"])
    one, two = model[-1](features), made.critic(features)
    return F.cross_entropy(one[8:], rows["y"][8:]), F.cross_entropy(two[8:], rows["y"][8:]), (
        one[:8].softmax(1) - two[:8].softmax(1)
    ).abs().mean()  # fmt: skip


@pytest.mark.parametrize("k", [1.0, 4.0])
def test_heads_learn_the_source_and_ascend_the_difference_which_the_body_descends_k_times(k):
    model, made = begun(hi=k)
    made(model, batch(), classify).loss.backward()
    first, second, apart = parts(model, made)
    body, heads = [*model[:-1].parameters()], [*model[-1].parameters(), *made.critic.parameters()]
    for weights, sign in ((body, k), (heads, -1.0)):
        by_hand = torch.autograd.grad(first + second + sign * apart, weights, retain_graph=True)
        for weight, expected in zip(weights, by_hand, strict=True):
            torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-4)
            assert expected.any()


def test_the_model_answers_by_its_own_head():
    model, made = begun()
    rows = {"x": batch()["x"]}
    assert torch.equal(made.predict(model, rows, classify), model(rows["x"]))


def test_the_second_head_is_as_the_models_and_drawn_apart_from_it():
    model, made = begun()
    assert made.critic.widths == (32, 10)
    assert not torch.allclose(made.critic[0].weight, model[-1].weight, atol=0.05)


def test_a_tap_is_refused():
    with pytest.raises(ValueError, match="tap='0'"):
        MCD(tap="0")
