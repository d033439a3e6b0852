"""Synaptic intelligence adds up what each weight really contributed along the path it really took."""

import copy
from functools import partial

import pytest
import torch
from methods.small import (
    contributions,
    drawn,
    everything,
    experience,
    net,
    own_loop,
    shake,
    weighted_square,
    weights,
)

from everlearn.learner import Learner
from everlearn.method import Chain, attached
from everlearn.methods import EWC, SI, GrowHead
from everlearn.objective import Output, classify

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "decay": partial(torch.optim.SGD, lr=0.1, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


def by_hand(make, c, xi, clip, counts=2):
    """A plain loop over two experiences that writes the definition down."""
    model = net()
    optimizer = make(model.parameters())
    omega = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    anchor = weights(model)
    for index in range(counts):
        anchor, path = weights(model), {name: torch.zeros_like(w) for name, w in omega.items()}
        terms = {"strength": c, "importance": omega, "anchor": anchor}
        for batch in drawn(experience(index)):
            for name, share in contributions(model, batch, optimizer, clip=clip, **terms).items():
                path[name] += share
        for name, weight in weights(model).items():
            omega[name] += path[name].clamp(min=0) / ((weight - anchor[name]) ** 2 + xi)
    return model, omega


def learned(make, method, **options):
    learner = Learner(net(), method, optimizer=make, batch_size=8, epochs=2, **options)
    for index in range(2):
        learner.learn(experience(index))
    return learner


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_importance_is_the_path_integral_of_the_task_gradient(name, clip):
    model, omega = by_hand(OPTIMIZERS[name], 2.0, 0.1, clip)
    learner = learned(OPTIMIZERS[name], SI(c=2.0), clip=clip)
    for key, weight in model.named_parameters():
        torch.testing.assert_close(learner.model.get_parameter(key), weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(learner.method.importance[key], omega[key], rtol=1e-3, atol=1e-6)
        assert omega[key].max() > 1e-4


def test_importance_is_positive_and_nowhere_negative():
    importance = learned(OPTIMIZERS["sgd"], SI(c=1.0)).method.importance
    assert all((value >= 0).all() and value.max() > 0 for value in importance.values())


def test_the_path_is_the_loss_that_the_steps_took_off():
    """To first order, the sum of all contributions is the fall of the loss: gradient descent with small steps."""
    learner = Learner(net(), SI(c=0.0), optimizer=partial(torch.optim.SGD, lr=1e-3), batch_size=20, epochs=300)
    batch = everything(experience().train)
    before = classify(learner.model, batch).loss.item()
    for _ in learner.steps(experience()):
        path = {name: value.clone() for name, value in learner.method.path.items()}
    fall = before - classify(learner.model, batch).loss.item()
    assert sum(value.sum().item() for value in path.values()) == pytest.approx(fall, rel=0.02)


def test_the_anchor_does_not_share_memory_with_the_live_weights():
    learner = Learner(net(), SI(), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    for _ in learner.steps(experience()):
        break
    before = copy.deepcopy(learner.method.anchor)
    shake(learner.model)
    for name, value in learner.method.anchor.items():
        assert torch.equal(value, before[name])
        assert not torch.equal(value, learner.model.get_parameter(name))


def test_the_penalty_is_c_times_the_weighted_square_without_a_half():
    method, model = SI(c=3.0), net()
    method.begin(model, experience(), classify)
    method.importance = {name: torch.rand_like(weight) for name, weight in model.named_parameters()}
    shake(model)
    batch = everything(experience().train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    torch.testing.assert_close(added, 3.0 * weighted_square(model, method.importance, method.anchor))


def test_each_experience_starts_a_new_path_from_the_present_weights():
    learner = learned(OPTIMIZERS["sgd"], SI())
    before = weights(learner.model)
    for _ in learner.steps(experience(2)):
        break
    for name, value in learner.method.anchor.items():
        assert torch.equal(value, before[name])
    learner.method.begin(learner.model, experience(3), classify)
    assert not any(value.any() for value in learner.method.path.values())


def test_accumulated_pieces_make_the_same_path_as_whole_batches():
    whole, pieces = (
        Learner(net(), SI(), optimizer=OPTIMIZERS["sgd"], batch_size=10, accumulate=a).method for a in (1, 2)
    )
    for method, accumulate in ((whole, 1), (pieces, 2)):
        learner = Learner(net(), method, optimizer=OPTIMIZERS["sgd"], batch_size=10, accumulate=accumulate)
        learner.learn(experience(0))
        learner.learn(experience(1))
    for name, value in whole.importance.items():
        torch.testing.assert_close(pieces.importance[name], value, rtol=1e-3, atol=1e-6)


def test_in_a_loop_of_ones_own_it_is_the_same():
    learner = learned(OPTIMIZERS["adam"], SI(c=2.0))
    method = SI(c=2.0)
    own_loop(method, OPTIMIZERS["adam"], map(experience, range(2)))
    for name, value in method.importance.items():
        assert torch.equal(value, learner.method.importance[name])


def test_new_outputs_of_a_growing_head_have_importance_only_from_then_on():
    learner = Learner(net(2), Chain(GrowHead(), SI(c=1.0)), optimizer=OPTIMIZERS["sgd"], batch_size=8, epochs=2)
    learner.learn(experience(0, classes=(0, 1)))
    first = learner.method.methods[1].importance["3.weight"].clone()
    learner.learn(experience(1, classes=(0, 1, 2, 3)))
    second = learner.method.methods[1].importance["3.weight"]
    assert first.shape == (2, 6)
    assert second.shape == (4, 6)
    assert (second[:2] >= first).all()
    assert second[2:].max() > 0


def test_a_frozen_layer_has_no_path():
    model = net()
    model[0].requires_grad_(requires_grad=False)
    learner = Learner(model, SI(), optimizer=lambda _: OPTIMIZERS["sgd"](model[3].parameters()), batch_size=8)
    learner.learn(experience(0))
    learner.learn(experience(1))
    assert learner.method.importance.keys() == {"3.weight", "3.bias"}


def test_a_layer_frozen_later_keeps_its_importance():
    learner = Learner(net(), SI(), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    learner.learn(experience(0))
    before = learner.method.importance["0.weight"].clone()
    learner.model[0].requires_grad_(requires_grad=False)
    learner.learn(experience(1))
    assert torch.equal(learner.method.importance["0.weight"], before)


def test_the_penalty_of_another_method_counts_as_task():
    """What pulls from outside is part of what is descended; only its own pull is left out."""
    method, other, model = SI(c=2.0), EWC(lambda_=50.0), net()
    other.end(model, experience(7), classify)
    shake(model)
    chain = Chain(other, method)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    method.importance = {name: torch.rand_like(weight) for name, weight in model.named_parameters()}
    method.begin(model, experience(), classify)
    shake(model, seed=1)
    batch = everything(experience().train)
    expected = torch.autograd.grad(other(model, batch, classify).loss, list(model.parameters()))
    with attached(chain, model, optimizer):
        chain(model, batch, classify).loss.backward()
        before = weights(model)
        optimizer.step()
    for (name, weight), g in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(method.path[name], -g * (weight - before[name]).detach(), rtol=1e-3, atol=1e-6)


def test_a_step_skipped_because_the_gradient_overflowed_is_no_step():
    def steep(model, batch):
        output = classify(model, batch)
        first = output.loss is not None and learner.number == 0
        return Output(output.loss * 1e30 if first else output.loss, output.logits)

    learner = Learner(net(), SI(), steep, optimizer=OPTIMIZERS["sgd"], batch_size=10, precision="fp16", epochs=3)
    before = weights(learner.model)
    for step in learner.steps(experience()):
        if step.number == 1:
            assert all(torch.equal(before[name], value) for name, value in weights(learner.model).items())
        assert all(value.isfinite().all() for value in learner.method.path.values())
    assert all(value.isfinite().all() and value.max() > 0 for value in learner.method.importance.values())
