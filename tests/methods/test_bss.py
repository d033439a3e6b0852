"""Batch spectral shrinkage adds the squares of the smallest singular values of the features, and nothing else."""

import pytest
import torch
from methods.small import everything, experience, learner, net, norm_net, rows, trains_plainly
from torch import nn

from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import BSS, Replay
from everlearn.methods.composition import build
from everlearn.objective import classify


def added(method, model, batch):
    return method(model, batch, classify).loss - classify(model, batch).loss


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("count", [4, 6, 20])
def test_it_adds_the_smallest_eigenvalues_of_the_gram_matrix(count, k):
    """The oracle, with more rows than features, as many, and fewer."""
    model, batch = net(), everything(rows(count))
    features = model[:3](batch["x"]).detach().double()
    gram = features @ features.T if count < 6 else features.T @ features
    expected = torch.linalg.eigvalsh(gram)[:k].sum()
    torch.testing.assert_close(added(BSS(eta=0.5, k=k), model, batch).double(), 0.5 * expected, atol=1e-5, rtol=1e-4)


def test_its_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)).double()
    batch = {"x": torch.randn(8, 5, dtype=torch.float64), "y": torch.arange(8) % 4}
    method, weight = BSS(eta=2.0, k=2), model[0].weight
    (grad,) = torch.autograd.grad(added(method, model, batch), [weight])
    step = 1e-3
    for place in ((0, 0), (2, 4)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                values.append(float(added(method, model, batch)))
                weight[place] -= sign * step
        assert float(grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2, abs=1e-3)


def test_features_of_which_some_are_always_zero_have_a_finite_gradient():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, -1.0)
    BSS(eta=1.0, k=4)(model, everything(rows()), classify).loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_under_autocast_it_is_computed_in_float32():
    model, batch = net(), everything(rows())
    with torch.autocast("cpu", torch.bfloat16):
        loss = BSS(eta=1.0)(model, batch, classify).loss
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_rows_that_replay_joins_behind_it_do_not_count():
    model, batch = net(), everything(rows(8))
    losses = []
    for eta in (1.0, 0.0):
        memory = Memory(20)
        memory.add(everything(rows(10, seed=3)))
        losses.append(Chain(BSS(eta=eta), Replay(memory, count=5))(model, batch, classify).loss)
    torch.testing.assert_close(losses[0] - losses[1], added(BSS(eta=1.0), model, batch))


@pytest.mark.parametrize("model", [net, norm_net])
def test_without_strength_it_is_plain_fine_tuning(model):
    assert trains_plainly(BSS(eta=0.0), model)


def test_it_shrinks_what_it_is_about():
    ends = {}
    for eta in (0.0, 1.0):
        subject = learner(BSS(eta=eta, k=2), epochs=20)
        subject.learn(experience())
        features = subject.model[:3](everything(experience().train)["x"]).detach()
        ends[eta] = torch.linalg.svdvals(features)[-2:].sum()
    assert ends[1.0] < 0.8 * ends[0.0]


def test_a_batch_without_labels_has_no_loss_to_add_to():
    assert BSS()(net(), {"x": torch.zeros(2, 5)}, classify).loss is None


def test_on_the_command_line():
    assert build("bss:eta=0.01,k=2").k == 2
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        BSS(k=0)
