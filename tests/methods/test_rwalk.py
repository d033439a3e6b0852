"""Riemannian walk: what each weight did for the loss, over how far it moved in answers."""

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
    norm_net,
    shake,
    weighted_square,
    weights,
)

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain, Method
from everlearn.methods import GrowHead, Naive
from everlearn.methods.rwalk import RWalk
from everlearn.models import snapshot
from everlearn.objective import Output, classify
from everlearn.streams import Experience

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


def squares(model, batch):
    """The mean over rows of squared gradients, one backward pass for each row."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for x, y in zip(batch["x"], batch["y"], strict=True):
        model.zero_grad()
        (-model(x[None]).log_softmax(1)[0, y]).backward()
        for name, weight in model.named_parameters():
            total[name] += weight.grad**2 / len(batch["x"])
    return total


def by_hand(make, strength, *, alpha, every, epsilon, clip):
    """A plain loop over three experiences that writes the definition down."""
    model = net()
    optimizer = make(model.parameters())
    zero = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    f, past, importance, anchor = zero, None, zero, weights(model)

    def arrive(path, start, score):
        for name, weight in weights(model).items():
            distance = f[name] * (weight - start[name]) ** 2 / 2 + epsilon
            score[name] += path[name].clamp(min=0) / distance

    for index in range(3):
        path, start = {n: z.clone() for n, z in zero.items()}, weights(model)
        score = {n: z.clone() for n, z in zero.items()}
        terms = {"strength": strength, "importance": importance, "anchor": anchor}
        for taken, batch in enumerate(drawn(experience(index))):
            if taken % every == 0:
                new = squares(model, batch)
                f = {n: alpha * new[n] + (1 - alpha) * f[n] for n in f}
            for name, share in contributions(model, batch, optimizer, clip=clip, **terms).items():
                path[name] += share
            if (taken + 1) % every == 0:
                arrive(path, start, score)
                path, start = {n: z.clone() for n, z in zero.items()}, weights(model)
        arrive(path, start, score)
        past = score if past is None else {n: (past[n] + score[n]) / 2 for n in past}
        top_f, top_s = max(v.max() for v in f.values()), max(v.max() for v in past.values())
        importance = {n: f[n] / top_f + past[n] / top_s for n in f}
        anchor = weights(model)
    return model, importance


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_importance_is_the_running_information_and_the_score_along_the_path(name, every, clip):
    model, importance = by_hand(OPTIMIZERS[name], 0.5, alpha=0.7, every=every, epsilon=1e-4, clip=clip)
    method = RWalk(0.5, alpha=0.7, every=every, epsilon=1e-4)
    learner = Learner(net(), method, optimizer=OPTIMIZERS[name], batch_size=8, epochs=2, clip=clip)
    for index in range(3):
        learner.learn(experience(index))
    for key, weight in model.named_parameters():
        torch.testing.assert_close(learner.model.get_parameter(key), weight, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(method.importance[key], importance[key], rtol=1e-2, atol=1e-4)


def test_the_running_information_has_the_squares_of_single_rows_whatever_the_batch_size():
    """With alpha 1 and weights that stand still it is that of the last batch looked at: here, of all rows."""
    method = RWalk(alpha=1.0)
    Learner(net(), method, optimizer=partial(torch.optim.SGD, lr=0.0), batch_size=20).learn(experience())
    for name, value in squares(net(), everything(experience().train)).items():
        torch.testing.assert_close(method.running[name], value, rtol=1e-3, atol=1e-7)


def test_the_penalty_is_lambda_times_the_weighted_square_without_a_half():
    learner = Learner(net(), RWalk(3.0), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    learner.learn(experience())
    method, model, anchor = learner.method, learner.model, weights(learner.model)
    shake(model)
    batch = everything(experience(1).train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    torch.testing.assert_close(added, 3.0 * weighted_square(model, method.importance, anchor))


def test_importance_is_between_0_and_2_and_so_the_stable_learning_rate_has_a_floor():
    learner = Learner(net(), RWalk(3.0), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    for index in range(3):
        learner.learn(experience(index))
    values = torch.cat([value.flatten() for value in learner.method.importance.values()])
    assert 0 <= values.min() < values.max() <= 2
    assert learner.method.stable_lr() >= 2 / (2 * 3 * 2)


def test_training_stays_in_train_mode_and_estimates_leave_no_trace():
    """Bug of a well-known library: its model was in eval mode from the first estimate on, for good."""
    modes = []

    class Watch(Method):
        def loss(self, model, batch, objective, rest):
            modes.append({module.training for module in model.modules()})
            assert all(weight.grad is None for weight in model.parameters())
            return rest(model, batch)

    found = []
    for method in (Naive(), RWalk(0.0, every=1)):
        learner = Learner(norm_net(), Chain(method, Watch()), optimizer=OPTIMIZERS["sgd"], batch_size=10)
        for index in range(3):
            learner.learn(experience(index))
        found.append(snapshot(learner.model))
    assert modes == [{True}] * 12
    assert checkpoint.same(*found)


@pytest.mark.parametrize("step", ["gradient", "proximal"])
def test_the_gradient_of_the_path_is_without_the_penalty(step):
    """Far from the anchor the penalty is almost all of the gradient; the path must not see it."""
    method, model = RWalk(50.0, every=100, step=step, eta=1e-4), net()
    learner = Learner(model, method, optimizer=partial(torch.optim.SGD, lr=1e-4), batch_size=20)
    learner.learn(experience())
    shake(model)
    before = weights(model)
    task = torch.autograd.grad(classify(model, everything(experience(1).train)).loss, list(model.parameters()))
    for _ in learner.steps(experience(1)):
        for (name, weight), g in zip(model.named_parameters(), task, strict=True):
            path = -g * (weight.detach() - before[name])
            torch.testing.assert_close(method.path[name], path, rtol=1e-2, atol=1e-7)
            assert path.any()


def test_a_head_that_grows_is_held_where_it_was_known():
    learner = Learner(net(2), Chain(GrowHead(), RWalk()), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    learner.learn(experience(0, classes=(0, 1)))
    method = learner.method.methods[1]
    for _ in learner.steps(experience(1, classes=(0, 1, 2, 3))):
        assert method.importance["3.weight"][:2].any()
        assert not method.importance["3.weight"][2:].any()
    assert method.importance["3.weight"].shape == (4, 6)
    assert method.importance["3.weight"][2:].any()


def test_a_frozen_layer_has_no_part_and_a_layer_frozen_later_keeps_what_it_had():
    method, model = RWalk(), net()
    learner = Learner(model, method, optimizer=OPTIMIZERS["sgd"], batch_size=8)
    learner.learn(experience(0))
    anchor, running = method.anchor["0.weight"].clone(), method.running["0.weight"].clone()
    model[0].requires_grad_(requires_grad=False)
    frozen = Learner(model, method, optimizer=lambda _: OPTIMIZERS["sgd"](model[3].parameters()), batch_size=8)
    frozen.learn(experience(1))
    assert torch.equal(method.anchor["0.weight"], anchor)
    assert torch.equal(method.running["0.weight"], running)
    assert method.importance["0.weight"].any()


def test_a_model_trained_elsewhere_gets_its_importance_from_a_pass_that_remembers():
    learner = Learner(net(), RWalk(alpha=1.0), optimizer=OPTIMIZERS["sgd"], batch_size=20)
    learner.remember(experience())
    expected = squares(net(), everything(experience().train))
    top = max(value.max() for value in expected.values())
    for name, value in learner.method.importance.items():
        torch.testing.assert_close(value, expected[name] / top, rtol=1e-3, atol=1e-6)


def test_a_batch_without_labels_that_others_learn_from_adds_no_information():
    class Lesson(Naive):
        def loss(self, model, batch, objective, rest):
            logits = objective(model, batch).logits
            return Output(logits.square().mean(), logits)

    model, made = net(), RWalk(1.0, every=1)
    made.begin(model, experience(), classify)
    made.path = {name: torch.zeros_like(weight) for name, weight in weights(model).items()}
    before = {name: value.clone() for name, value in made.running.items()}
    chain = Chain(made, Lesson())
    assert chain(model, {"x": torch.ones(3, 5)}, classify).loss is not None
    assert checkpoint.same(made.running, before)


def test_an_experience_without_labels_holds_nothing_and_breaks_nothing():
    rows = Columns(x=torch.randn(20, 5), y=torch.full((20,), -100))
    learner = Learner(net(), RWalk(), optimizer=OPTIMIZERS["sgd"], batch_size=8)
    learner.learn(Experience(0, rows, rows))
    learner.learn(experience(1))
    learner.learn(experience(2))
    assert all(value.isfinite().all() for value in weights(learner.model).values())


def test_an_interval_of_no_step_is_an_error():
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, but is 0"):
        RWalk(every=0)
