"""SAR: the gradient beside the weights, and the constant that brings w0 back."""

from functools import partial
from math import log

import pytest
import torch
from methods.small import everything, rows
from methods.targets import batch_norms, layer_norms, learner, told

from everlearn.methods import SAR
from everlearn.models.norms import affine
from everlearn.models.spread import entropies

PLAIN = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("make", [batch_norms, layer_norms])
def test_a_step_goes_down_the_gradient_beside_the_weights(make):
    subject, other = learner(SAR(E0=0.97, skip=0.0, rho=0.5), make(), optimizer=PLAIN), make()
    for module in other:
        module.p = 0.0
    x = 2 * everything(rows(40))["x"]
    names = affine(other)
    norms = [other.get_parameter(name) for name in names]
    before = [w.detach().clone() for w in norms]
    edge = 0.97 * log(4)
    h = entropies(other(x))
    reliable = h < edge
    assert 0 < int(reliable.sum()) < 40
    slopes = torch.autograd.grad(h[reliable].mean(), norms)
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    with torch.no_grad():
        for w, slope in zip(norms, slopes, strict=True):
            w.add_(0.5 * slope / length)
    again = entropies(other(x))[reliable]
    again = again[again < edge]
    steps = torch.autograd.grad(again.mean(), norms)
    output = subject.observe({"x": x})
    torch.testing.assert_close(output.loss, again.mean().detach())
    for name, old, step in zip(names, before, steps, strict=True):
        torch.testing.assert_close(subject.model.get_parameter(name).detach(), old - 0.1 * step)


def test_with_rho_0_it_is_the_entropy_of_reliable_rows():
    subject, model = learner(SAR(E0=2.0, rho=0.0), layer_norms(), optimizer=PLAIN), layer_norms()
    model[3].p = 0.0
    x = everything(rows(10))["x"]
    torch.testing.assert_close(subject.observe({"x": x}).loss, entropies(model(x)).mean().detach())


def test_no_reliable_row_is_no_step():
    assert learner(SAR(E0=0.0)).observe({"x": torch.randn(8, 5)}).loss is None


def test_the_constant_that_was_given_is_the_one_that_brings_w0_back():
    resets = []
    for e_m in (0.0, 9.0):
        subject = learner(SAR(E0=2.0, e_m=e_m, alarm=0.0), layer_norms())
        told(subject, count=4)
        resets.append(int(subject.method.resets))
        assert int(subject.method.spread.alarms) == 0
    assert resets == [0, 4]


def test_the_moving_average_starts_anew_with_w0():
    subject = learner(SAR(E0=2.0, e_m=9.0), layer_norms())
    told(subject, count=1)
    assert bool(subject.method.ema.isnan())
    subject = learner(SAR(E0=2.0, e_m=0.0, rho=0.0), layer_norms())
    x = everything(rows(10))["x"]
    first, second = (subject.observe({"x": x}).loss for _ in range(2))
    torch.testing.assert_close(subject.method.ema, 0.9 * first + 0.1 * second)


def test_the_last_norms_do_not_learn():
    assert affine(layer_norms()) == ["1.weight", "1.bias", "5.weight", "5.bias"]
    assert SAR(skip=0.5).scope(layer_norms()) == ["1.weight", "1.bias"]
    assert SAR(skip=1.0).scope(layer_norms()) == ["1.weight", "1.bias"], "one is left"
