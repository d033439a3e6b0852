"""Each adapter is held away from the directions that earlier ones read, and these never change."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.methods.lora import LoRA
from everlearn.methods.olora import OLoRA
from everlearn.models import snapshot
from everlearn.objective import Output, classify


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4))


def learner(method, **options):
    settings = {"optimizer": partial(torch.optim.SGD, lr=0.05), "epochs": 3, "batch_size": 8} | options
    return Learner(deep(), method, **settings)


def test_earlier_adapters_never_move_and_the_model_is_the_sum_of_all():
    subject = learner(OLoRA(r=2, alpha=4.0))
    first, sums, kept = snapshot(subject.model), {}, {}
    for index in range(3):
        for _ in subject.steps(experience(index)):
            for name, past in subject.method.past.items():
                assert torch.equal(past, kept[name])
        for name in ("0.weight", "2.weight"):
            a, b = (each.detach() for each in subject.method.adapters.pair(name))
            sums[name] = sums.get(name, 0) + 2 * b @ a
            kept[name] = torch.cat([*([kept[name]] if name in kept else []), a])
            torch.testing.assert_close(subject.model.get_parameter(name).detach(), first[name] + sums[name])
            assert torch.equal(subject.method.past[name], kept[name])
    assert [len(past) for past in subject.method.past.values()] == [6, 6]


def test_the_penalty_is_the_sum_of_squares_of_each_product_of_an_earlier_a_with_this_one():
    """By hand, entry by entry."""
    method, model = OLoRA(r=2, lambda_1=0.7), deep()
    for index in range(3):
        method.begin(model, experience(index), classify)
        if index < 2:
            method.end(model, experience(index), classify)
    batch = everything(experience(2).train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    by_hand = 0.0
    for name in ("0.weight", "2.weight"):
        for old in method.past[name]:
            by_hand += sum(float(old @ new) ** 2 for new in method.adapters.pair(name)[0].detach())
    assert by_hand > 0.1
    assert added.item() == pytest.approx(0.7 * by_hand, rel=1e-4)


def test_a_gets_the_gradient_of_the_penalty_beside_that_of_the_data():
    method, model = OLoRA(r=2, lambda_1=0.7), deep()
    method.begin(model, experience(0), classify)
    method.end(model, experience(0), classify)
    method.begin(model, experience(1), classify)
    method(model, everything(experience(1).train), classify).loss.backward()
    method.before_step(model)
    a, b = method.adapters.pair("2.weight")
    old = method.past["2.weight"]
    torch.testing.assert_close(a.grad, 2 * 0.7 * a.detach() @ old.T @ old)  # B is 0: the data say nothing about A
    assert b.grad.any()


def overlap(lambda_1):
    subject = learner(OLoRA(r=2, lambda_1=lambda_1), epochs=30)
    subject.learn(experience(0))
    for _ in subject.steps(experience(1)):
        pass
    pair = (subject.method.past[name].split(2) for name in ("0.weight", "2.weight"))
    return sum(float((old @ new.T).norm()) for old, new in pair)


def test_adapters_become_orthogonal_to_earlier_ones():
    assert overlap(10.0) < overlap(0.0) / 5


def test_with_strength_0_it_is_lora_bit_for_bit():
    ends = []
    for method in (LoRA(r=2), OLoRA(r=2, lambda_1=0.0)):
        subject = learner(method)
        for index in range(2):
            subject.learn(experience(index))
        ends.append(snapshot(subject.model))
    assert checkpoint.same(*ends)


def test_a_batch_without_a_loss_stays_without():
    method, model = OLoRA(r=2), deep()
    for index in range(2):
        method.begin(model, experience(index), classify)
        method.end(model, experience(index), classify)
    method.begin(model, experience(2), classify)
    batch = {"x": torch.zeros(3, 5)}
    assert isinstance(method(model, batch, classify), Output)
    assert method(model, batch, classify).loss is None
