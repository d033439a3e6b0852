"""StochNorm tosses a coin for each channel, from a generator of its own, and leaves the modules of the model alone."""

import copy

import pytest
import torch
from methods.small import (
    assert_resume_is_exact,
    everything,
    experience,
    learner,
    net,
    norm_net,
    opposed,
    rows,
    trains_plainly,
)
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.methods import StochNorm
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.objective import Output, classify
from everlearn.randomness import mix


def settled():
    """A convolution with batch normalisation that has seen some rows, and no dropout."""
    model = norm_net()
    model[4].p = 0.0
    for seed in range(3):
        model(everything(rows(seed=seed))["x"] + 1)
    return model


def logits(method, model, batch):
    return method(model, batch, classify).logits


def test_with_p_1_it_is_plain_training_bit_for_bit():
    assert trains_plainly(StochNorm(p=1.0), norm_net, opposed)


def test_with_p_0_it_answers_as_in_eval_mode_and_statistics_still_learn():
    model, batch = settled(), everything(rows())
    expected, before = copy.deepcopy(model).eval()(batch["x"]), model[2].running_mean.clone()
    plain = copy.deepcopy(model)
    plain(batch["x"])
    torch.testing.assert_close(logits(StochNorm(p=0.0), model, batch), expected)
    assert not torch.equal(model[2].running_mean, before)
    assert checkpoint.same(snapshot(plain), snapshot(model))


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 3), (8, 4, 3, 3), (8, 4, 2, 3, 3)])
def test_each_channel_is_normalised_one_way_or_the_other_and_gradients_follow(shape):
    """The oracle: both ways by hand, in float64, with statistics as they were before the batch."""
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    norm = kind(4).double()
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    answer = StochNorm(p=0.5, seed=3)(norm, {"x": x}, lambda model, batch: Output(None, model(batch["x"]))).logits
    around, wide = [0, *range(2, len(shape))], (1, 4, *[1] * (len(shape) - 2))

    def by(mean, variance):
        z = (x - mean.view(wide)) / (variance.view(wide) + norm.eps).sqrt()
        return z * norm.weight.view(wide) + norm.bias.view(wide)

    coin = torch.rand(4, generator=torch.Generator().manual_seed(mix(3, 0))) < 0.5
    assert 0 < coin.sum() < 4
    batchwise = by(x.mean(around), x.var(around, correction=0))
    expected = torch.where(coin.view(wide), batchwise, by(mean, variance))
    torch.testing.assert_close(answer, expected)
    away = torch.randn(shape, dtype=torch.float64)
    parts = [x, norm.weight, norm.bias]
    for a, b in zip(*(torch.autograd.grad((z * away).sum(), parts) for z in (answer, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_p_is_the_share_of_channels_that_go_by_the_batch():
    model, x = nn.Sequential(nn.BatchNorm1d(2000)), torch.randn(4, 2000) + 3
    answer = StochNorm(p=0.9)(model, {"x": x}, lambda model, batch: Output(None, model(batch["x"]))).logits
    by_batch = (answer - F.batch_norm(x, None, None, training=True)).abs().amax(0) < 1e-5
    assert float(by_batch.float().mean()) == pytest.approx(0.9, abs=0.03)


def test_each_batch_draws_anew_and_no_global_generator_moves():
    model, batch, method = settled(), everything(rows()), StochNorm()
    state = torch.get_rng_state()
    drawn = [logits(method, copy.deepcopy(model), batch) for _ in range(8)]
    assert not all(torch.equal(drawn[0], each) for each in drawn)
    again, other = StochNorm(), StochNorm(seed=1)
    assert all(torch.equal(each, logits(again, copy.deepcopy(model), batch)) for each in drawn)
    assert not all(torch.equal(each, logits(other, copy.deepcopy(model), batch)) for each in drawn)
    assert torch.equal(state, torch.get_rng_state())


def test_the_modules_are_those_of_the_model_and_their_forward_is_their_own_again():
    model = settled()
    modules = list(model.modules())
    with pytest.raises(ZeroDivisionError):
        StochNorm()(model, everything(rows()), lambda *_: 1 / 0)
    logits(StochNorm(), model, everything(rows()))
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert not any("forward" in vars(module) for module in modules)


def test_a_normalisation_in_eval_mode_or_without_running_statistics_is_as_it_is():
    model, batch = settled(), everything(rows())
    model[2].eval()
    expected, before = copy.deepcopy(model)(batch["x"]), snapshot(model)
    assert torch.equal(logits(StochNorm(p=0.5), model, batch), expected)
    assert checkpoint.same(before, snapshot(model))
    alone = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False))
    found = StochNorm(p=0.0)(alone, batch, lambda model, batch: Output(None, model(batch["x"]))).logits
    assert torch.equal(found, alone(batch["x"]))


def test_predictions_and_estimates_are_plain():
    subject = learner(StochNorm(p=0.3), norm_net())
    subject.learn(opposed(0))
    batch = everything(rows())
    assert torch.equal(subject.predict(batch), copy.deepcopy(subject.model).eval()(batch["x"]))


def test_resume_is_exact_at_each_step(tmp_path):
    def fresh():
        return learner(StochNorm(), norm_net(), epochs=1, accumulate=2)

    assert_resume_is_exact(fresh, [opposed(0), opposed(1)], range(1, 6), tmp_path)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"p is a probability, but is 1\.5"):
        StochNorm(p=1.5)
    with pytest.raises(ValueError, match="Sequential has no batch normalisation with running statistics"):
        learner(StochNorm(), net()).learn(experience())


def test_on_the_command_line():
    assert build("stochnorm:p=0.25", seed=4) == StochNorm(p=0.25, seed=4)
