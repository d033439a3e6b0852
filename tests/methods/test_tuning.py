"""What every method of tuning owes: it goes on where it began, and works beside a teacher."""

from dataclasses import replace

import pytest
import torch
import zoo
from methods.small import everything, experience, net, shake

from everlearn import checkpoint
from everlearn.method import Chain
from everlearn.methods import BSS, DELTA, METHODS, CoTuning, FeatDistill, LwF
from everlearn.models import snapshot
from everlearn.objective import classify

NAMES = [name for name, cls in METHODS.items() if cls.card.family == "tuning"]


@pytest.mark.parametrize("name", NAMES)
def test_what_began_and_took_no_step_yet_goes_on_exactly_elsewhere(name, tmp_path):
    data, found = replace(zoo.stream(True)[0], steps=4), []
    for elsewhere in (False, True):
        subject = zoo.learner(name)
        method, model = subject.method, subject.model
        method.begin(model, data, classify)
        if elsewhere:
            checkpoint.save({"model": snapshot(model), "method": method.state_dict()}, tmp_path / "c")
            saved, other = checkpoint.load(tmp_path / "c"), zoo.learner(name)
            method, model = other.method, other.model
            shake(model)
            model.load_state_dict(saved["model"])
            method.load_state_dict(saved["method"])
        torch.manual_seed(3)
        loss = method(model, data.train.take(torch.arange(16)), classify).loss
        if loss is not None:
            loss.backward()
        method.before_step(model)
        grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append([{"loss": loss}, grads, snapshot(model), method.state_dict()])
    assert checkpoint.same(*found)


@pytest.mark.parametrize("make", [BSS, DELTA, CoTuning, FeatDistill])
def test_a_teacher_behind_it_is_not_taken_for_the_model_that_learns(make):
    found = []
    for turn in (1, -1):
        model = net(6)
        chain = Chain(*[LwF(), make()][::turn])
        for each in (chain.begin, chain.end):
            each(model, experience(), classify)
        shake(model)
        loss = chain(model, everything(experience(1).train), classify).loss
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
