"""The stream of depths has the concepts that it says, and each row is answered before it is learned."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import SGD

from everlearn.bench.depth import PARTS, Depth, stream, taught
from everlearn.bench.published import ROWS
from everlearn.bench.published.depth import LAYERS, ORDERINGS
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.models.exits import OnlineMLP

SMALL = Depth("", 3, rows=120, inputs=6, width=8)
METHODS = ["naive", "hedge", "hedge:rule=authors"]


def test_the_second_third_has_another_concept_and_the_rest_the_same():
    (x, y), (same, still) = (stream(3000, 6, 0, drift=drift) for drift in (True, False))
    assert torch.equal(x, same)
    assert torch.equal(y[:1000], still[:1000])
    assert torch.equal(y[2000:], still[2000:])
    assert (y[1000:2000] != still[1000:2000]).float().mean() > 0.2


def test_classes_are_even_and_seeds_differ():
    x, y = stream(20_000, 50, 0, drift=False)
    assert y.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(y[:1000], stream(1000, 50, 1, drift=False)[1])
    assert torch.equal(taught(x[:500], 7), taught(x[:500], 7))


@pytest.mark.parametrize("method", METHODS)
def test_each_row_is_answered_before_it_is_learned(method):
    """The oracle: `predict`, then `observe`."""
    x, y = stream(120, 6, 4, drift=True)
    learner = Learner(SMALL.net(method, 4), build(method, seed=4), optimizer=partial(SGD, lr=0.01))
    wrong = []
    for i in range(120):
        wrong.append(bool(learner.predict({"x": x[i : i + 1]}).argmax(1) != y[i]))
        learner.observe({"x": x[i : i + 1], "y": y[i : i + 1]})
    assert SMALL.wrong(method, 4).tolist() == wrong


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_errors_of_all_and_of_parts(method):
    scores, wrong = SMALL.measure(method, 0, None), SMALL.wrong(method, 0)
    assert len(scores) == 1 + PARTS
    assert scores["error"] == pytest.approx(100 * wrong.float().mean().item())
    assert scores["part 12"] == pytest.approx(100 * wrong[-10:].float().mean().item())
    assert scores == SMALL.measure(method, 0, None)


def test_no_layer_is_a_linear_model_and_hedge_has_an_exit_at_each():
    assert sum(weight.numel() for weight in replace(SMALL, layers=0).net("naive", 0).parameters()) == 6 * 2 + 2
    net = SMALL.net("hedge", 0)
    assert isinstance(net, OnlineMLP)
    assert net.names == ("input", "relu1", "relu2", "relu3")


def test_weights_may_be_those_of_xavier():
    net = replace(SMALL, weights="xavier").net("hedge", 0)
    assert not net.body[0].bias.any()
    assert not torch.equal(net.body[0].weight, SMALL.net("hedge", 0).body[0].weight)


def test_the_rows_are_on_a_page_of_their_own():
    names = [name for name, row in ROWS.items() if row.page == "online" and name.startswith("depth")]
    assert len(names) == 2 * (len(LAYERS) + 2)
    assert {name for ordering in ORDERINGS for name in (ordering.higher, ordering.lower)} <= {*names}
