"""AdaBN: running statistics of the rows that came."""

import copy

import pytest
import torch
from methods.small import everything, rows
from methods.targets import batch_norms, learner, source, target
from torch import nn

from everlearn.methods import AdaBN


def first_norm():
    """Whose statistics are those of the rows themselves."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))


def shown(method, parts, model=None):
    subject = learner(method, model or first_norm(), view=None)
    for part in parts:
        subject.observe({"x": part})
    return subject.model[0]


def test_the_statistics_are_those_of_all_rows_however_they_are_batched():
    x = everything(target(count=60).train)["x"]
    for sizes in ([60], [20, 20, 20], [5, 40, 15], [2] * 30):
        norm = shown(AdaBN(), x.split(sizes))
        torch.testing.assert_close(norm.running_mean, x.mean(0))
        torch.testing.assert_close(norm.running_var, x.var(0))
    image = x.view(60, 1, 5).expand(60, 2, 5) * torch.tensor([1.0, 3.0])[:, None]
    norm = shown(AdaBN(), image.split(3), nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(10, 4)))
    torch.testing.assert_close(norm.running_var, x.var() * torch.tensor([1.0, 9.0]))


def test_rows_of_the_source_weigh_as_many_as_n_says():
    x = everything(target(count=30).train)["x"]
    model = first_norm()
    model[0].running_mean += 3
    mean, var = model[0].running_mean.clone(), model[0].running_var.clone()
    norm = shown(AdaBN(N=10), x.split(15), model)
    alone = shown(AdaBN(), x.split(15))
    torch.testing.assert_close(norm.running_mean, (10 * mean + 30 * alone.running_mean) / 40)
    torch.testing.assert_close(norm.running_var, (10 * var + 30 * alone.running_var) / 40)
    near = shown(AdaBN(N=10**9), x.split(15))
    torch.testing.assert_close(near.running_mean, torch.zeros(5), atol=1e-6, rtol=0)


def test_answers_about_a_batch_mix_its_statistics_with_those_of_the_source():
    x, model = everything(target(count=12).train)["x"], first_norm()
    source_mean, source_var = 0.3, 2.0
    model[0].running_mean.fill_(source_mean)
    model[0].running_var.fill_(source_var)
    mean, var = (6 * source_mean + 12 * x.mean(0)) / 18, (6 * source_var + 12 * x.var(0, correction=0)) / 18
    expected = model[1]((x - mean) / (var + model[0].eps).sqrt())
    frozen = copy.deepcopy(model).eval()(x)
    subject = learner(AdaBN(N=6), copy.deepcopy(model), view=None)
    torch.testing.assert_close(subject.observe({"x": x}).logits, expected.detach())
    settled = learner(AdaBN(N=10**9), model, view=None)
    torch.testing.assert_close(settled.observe({"x": x}).logits, frozen.detach(), atol=1e-5, rtol=1e-4)


def test_each_experience_has_statistics_of_its_own():
    subject = learner(AdaBN(), first_norm(), view=None, epochs=1, batch_size=20)
    subject.learn(source())
    subject.learn(target(1))
    last = target(2)
    subject.learn(last)
    torch.testing.assert_close(subject.model[0].running_mean, everything(last.train)["x"].mean(0))


def test_in_a_window_older_rows_fade():
    x = torch.cat([torch.randn(40, 5), torch.randn(200, 5) + 10])
    assert shown(AdaBN(), x.split(20)).running_mean.mean() < 9
    assert shown(AdaBN(window=20), x.split(20)).running_mean.mean() > 9
    with pytest.raises(ValueError, match="window"):
        AdaBN(window=0)


def test_the_layers_keep_their_momenta():
    model = batch_norms()
    model[2].momentum, model[7].momentum = None, 0.3
    subject = learner(AdaBN(), model)
    subject.observe({"x": everything(rows(8))["x"]})
    assert [model[2].momentum, model[7].momentum] == [None, 0.3]


def test_there_is_no_step():
    subject = learner(AdaBN())
    assert subject.observe({"x": torch.randn(8, 5)}).loss is None
