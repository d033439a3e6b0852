"""Elastic weight consolidation is the sum that the paper writes down, however many experiences have been."""

import copy
from functools import partial

import pytest
import torch
from methods.small import (
    assert_end_leaves_no_trace,
    everything,
    experience,
    net,
    norm_net,
    rows_looked_at,
    shake,
    trains_plainly,
    weights,
)

from everlearn import checkpoint
from everlearn.border import NonFiniteError
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import EWC, GrowHead
from everlearn.models import grow, snapshot
from everlearn.models.quadratic import settle
from everlearn.objective import classify, regress
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.05)


def fisher_by_hand(model, batch, kind):
    """The mean over rows of squared gradients, one backward pass for each row and label."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    for x, y in zip(batch["x"], batch["y"], strict=True):
        log_p = model(x[None]).log_softmax(1)[0]
        chosen = [(log_p[y], 1.0)] if kind == "empirical" else [(value, value.detach().exp()) for value in log_p]
        chosen = [(log_p[y], log_p[y].detach().exp())] if kind == "weighted" else chosen
        for value, p in chosen:
            model.zero_grad()
            value.backward(retain_graph=True)
            for name, weight in model.named_parameters():
                if weight.grad is not None and name in total:
                    total[name] += p * weight.grad**2 / len(batch["x"])
    return total


def penalty(ewc, model, objective=classify):
    """What the method adds to the loss of a batch, and its gradients."""
    batch = everything(experience(9).train)
    model = copy.deepcopy(model).eval()
    plain = objective(model, batch).loss
    added = ewc(model, batch, objective).loss - plain
    names = dict(model.named_parameters())
    grads = torch.autograd.grad(added, list(names.values()), materialize_grads=True)
    return added.detach(), dict(zip(names, grads, strict=True))


def explicit(model, terms, strength):
    """sum_t strength / 2 sum_i F_i^t (w_i - w_i^t)^2, by autograd; a term may know fewer outputs than the model."""
    named = dict(model.named_parameters())
    value = sum(
        strength / 2 * (f * (named[n][tuple(map(slice, f.shape))] - anchor[n]) ** 2).sum()
        for f_t, anchor in terms
        for n, f in f_t.items()
    )
    return value.detach(), dict(
        zip(named, torch.autograd.grad(value, list(named.values()), materialize_grads=True), strict=True)
    )


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for name in expected[1]:
        torch.testing.assert_close(found[1][name], expected[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "empirical", "weighted"])
@pytest.mark.parametrize("make", [net, norm_net])
def test_importance_is_the_mean_squared_gradient_of_single_rows(kind, make):
    model, e = make(), experience(count=150)  # more than one batch of the estimate
    ewc = EWC(fisher=kind)
    ewc.end(model, e, classify)
    for name, value in fisher_by_hand(model, everything(e.train), kind).items():
        torch.testing.assert_close(ewc.importance[name], value, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_importance_does_not_depend_on_the_batch_size_of_training(kind):
    found = []
    for size in (5, 20):
        learner = Learner(net(), EWC(fisher=kind), optimizer=partial(torch.optim.SGD, lr=0.0), batch_size=size)
        learner.learn(experience())
        found.append(learner.method.importance)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_rows_bounds_the_number_of_rows_that_are_looked_at():
    assert rows_looked_at(EWC(rows=7)) == {7}


def test_the_estimate_runs_in_eval_mode_and_moves_nothing():
    assert_end_leaves_no_trace(EWC())


def lived(ewc, count=3):
    """A model that went through `count` experiences, and the terms of the penalty by hand."""
    model, terms = net(), []
    for index in range(count):
        e = experience(index)
        shake(model, seed=index)
        terms.append((fisher_by_hand(model, everything(e.train), ewc.fisher), weights(model)))
        ewc.end(model, e, classify)
    shake(model, seed=99)
    return model, terms


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_separate_penalties_are_the_explicit_sum_over_experiences(kind):
    ewc = EWC(lambda_=30.0, fisher=kind)
    model, terms = lived(ewc)
    assert_same(penalty(ewc, model), explicit(model, terms, 30.0))
    assert ewc.spread > 0


def test_the_cost_of_separate_penalties_does_not_grow_with_experiences():
    few, many = EWC(), EWC()
    lived(few, 1)
    lived(many, 4)
    assert [v.shape for v in few.importance.values()] == [v.shape for v in many.importance.values()]
    assert few.state_dict().keys() == many.state_dict().keys()


def test_the_online_penalty_is_the_recursion():
    ewc = EWC(lambda_=30.0, mode="online", gamma=0.7)
    model, terms = lived(ewc)
    running = {name: torch.zeros_like(value) for name, value in terms[0][0].items()}
    for f, _ in terms:
        running = {name: 0.7 * running[name] + f[name] for name in running}
    assert_same(penalty(ewc, model), explicit(model, [(running, terms[-1][1])], 30.0))


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_a_head_that_grows_is_held_where_it_was_known(mode):
    ewc, model, terms = EWC(lambda_=30.0, mode=mode), net(2), []
    for index, outputs in enumerate((2, 4, 5)):
        grow(model, outputs)
        shake(model, seed=index)
        e = experience(index, classes=range(outputs))
        terms.append((fisher_by_hand(model, everything(e.train), "exact"), weights(model)))
        ewc.end(model, e, classify)
    grow(model, 7)
    shake(model, seed=9)
    if mode == "online":
        total = {name: value.clone() for name, value in terms[-1][0].items()}
        for f, _ in terms[:-1]:
            for name, value in f.items():
                total[name][tuple(map(slice, value.shape))] += value
        terms = [(total, terms[-1][1])]
    assert_same(penalty(ewc, model), explicit(model, terms, 30.0))


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_a_layer_that_was_frozen_for_a_while_is_held_by_what_was_known_of_it(mode):
    ewc, model = EWC(lambda_=30.0, mode=mode), net()
    ewc.end(model, experience(0), classify)
    importance, anchor = (copy.deepcopy(each["0.weight"]) for each in (ewc.importance, ewc.anchor))
    model[0].requires_grad_(requires_grad=False)
    model[3].weight.data += 0.1
    learner = Learner(model, ewc, optimizer=lambda _: SGD(model[3].parameters()))
    learner.learn(experience(1))
    assert torch.equal(ewc.importance["0.weight"], importance)
    assert torch.equal(ewc.anchor["0.weight"], anchor)
    model[0].requires_grad_(requires_grad=True)
    shake(model)
    _, grads = penalty(ewc, model)
    torch.testing.assert_close(grads["0.weight"], 30.0 * importance * (model[0].weight - anchor))


def test_without_strength_nothing_is_added():
    ewc = EWC(lambda_=0.0)
    model, _ = lived(ewc)
    batch = everything(experience(9).train)
    assert torch.equal(ewc(model, batch, classify).loss, classify(model, batch).loss)


def test_before_the_first_experience_ends_nothing_is_added():
    model, batch = net(), everything(experience().train)
    assert torch.equal(EWC()(model, batch, classify).loss, classify(model, batch).loss)


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_the_penalty_is_positive_and_part_of_the_loss_that_is_reported(mode):
    learner = Learner(net(), EWC(lambda_=50.0, mode=mode), optimizer=SGD, batch_size=20, epochs=4)
    learner.learn(experience(0))
    batch = everything(experience(1).train)
    before = added = None
    for step in learner.steps(experience(1)):
        if before is not None:
            torch.testing.assert_close(step.loss, (classify(before, batch).loss + added).detach())
        before = copy.deepcopy(learner.model)
        added, _ = penalty(learner.method, before)
        assert added > 0


def test_a_model_without_trainable_weights_in_the_anchor_is_free():
    ewc, model = EWC(), net()
    ewc.end(model, experience(), classify)
    model.requires_grad_(requires_grad=False)
    model.append(torch.nn.Linear(4, 4))
    batch = everything(experience(1).train)
    assert torch.isfinite(ewc(model, batch, classify).loss)


# -- the explicit step and the proximal one -------------------------------------------------------------------


def line(index):
    """Rows of a linear regression; those of experience 1 ask for other weights than those of experience 0."""
    random = torch.Generator().manual_seed(index)
    x = torch.randn(20, 5, generator=random)
    rows = Columns(x=x, y=x @ torch.randn(5, generator=random) + index)
    return Experience(index, rows, rows)


def solved(ewc, strength):
    """The weights and bias that minimise the mean squared error of experience 1 plus the penalty, exactly."""
    batch = everything(line(1).train)
    x = torch.cat([batch["x"], torch.ones(20, 1)], 1).double()
    f, anchor = (torch.cat([each["weight"].flatten(), each["bias"]]).double() for each in (ewc.importance, ewc.anchor))
    a = 2 / 20 * x.T @ x + strength * f.diag()
    return torch.linalg.solve(a, 2 / 20 * x.T @ batch["y"].double() + strength * f * anchor).float()


def regression(ewc, lr, epochs=1):
    """A learner that went through experience 0, and the exact importance that it then has."""
    torch.manual_seed(0)
    learner = Learner(
        torch.nn.Linear(5, 1), ewc, regress, optimizer=partial(torch.optim.SGD, lr=lr), batch_size=20, epochs=epochs
    )
    learner.learn(line(0))
    return learner


@pytest.mark.parametrize(("step", "strength"), [("gradient", 0.05), ("proximal", 0.05), ("proximal", 1e6)])
def test_both_steps_end_at_the_exact_minimum_but_only_the_proximal_one_at_any_strength(step, strength):
    learner = regression(EWC(strength, fisher="empirical", step=step, eta=0.05), 0.05, epochs=400)
    expected = solved(learner.method, strength)
    learner.learn(line(1))
    found = torch.cat([learner.model.weight.detach().flatten(), learner.model.bias.detach()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_an_explicit_step_that_diverges_is_refused_and_the_way_out_is_named():
    learner = regression(EWC(1e6, fisher="empirical"), 0.05, epochs=40)
    with pytest.raises(NonFiniteError, match=r'only while learning rate x curvature < 2, or with step="proximal"'):
        learner.learn(line(1))
    assert all(value.isfinite().all() for value in snapshot(learner.model).values())


def test_where_the_learning_rate_is_told_an_unstable_experience_is_refused_before_its_first_step():
    learner = regression(EWC(1e6, fisher="empirical", eta=0.05), 0.05)
    before = snapshot(learner.model)
    lowest = f"{learner.method.stable_lr():.3g}"
    with pytest.raises(ValueError, match=r"learning rate x curvature < 2.*below " + lowest + r".*step=\"proximal\""):
        learner.learn(line(1))
    assert checkpoint.same(before, snapshot(learner.model))


@pytest.mark.parametrize(("share", "stable"), [(0.98, True), (1.02, False)])
def test_the_stable_learning_rate_is_where_gradient_steps_on_the_penalty_begin_to_diverge(share, stable):
    ewc, model = EWC(30.0), net()
    ewc.end(model, experience(), classify)
    assert ewc.curvature == pytest.approx(30 * max(float(value.max()) for value in ewc.importance.values()))
    shake(model, size=1e-3)
    batch, optimizer = everything(experience(1).train), torch.optim.SGD(model.parameters(), lr=share * ewc.stable_lr())
    away = []
    for _ in range(300):
        plain = classify(model, batch)
        optimizer.zero_grad()
        (ewc(model, batch, classify).loss - plain.loss).backward()
        optimizer.step()
        away.append(max(float((w.detach() - ewc.anchor[n]).abs().max()) for n, w in model.named_parameters()))
    assert (away[-1] < 1e-3) if stable else (away[-1] > 10 * away[0])


def test_without_strength_or_importance_every_learning_rate_is_stable():
    ewc = EWC(0.0)
    assert EWC(30.0).stable_lr() == ewc.stable_lr() == float("inf")
    ewc.end(net(), experience(), classify)
    assert ewc.stable_lr() == float("inf")


def test_the_proximal_step_is_the_minimum_of_penalty_and_distance():
    random = torch.Generator().manual_seed(0)
    weight, anchor, importance = ({"w": torch.rand(50, generator=random, dtype=torch.float64)} for _ in range(3))
    importance["w"][:5] = 0
    for rate in (0.1, 10.0, 1e9):
        moved = {"w": weight["w"].clone()}
        settle(moved, anchor, importance, rate)
        f = rate * importance["w"]
        torch.testing.assert_close(moved["w"], (weight["w"] + f * anchor["w"]) / (1 + f))
        assert torch.equal(moved["w"][:5], weight["w"][:5])


def test_with_a_proximal_step_the_loss_is_that_of_the_task_alone():
    ewc = EWC(30.0, step="proximal", eta=0.05)
    model, _ = lived(ewc)
    batch = everything(experience(9).train)
    assert torch.equal(ewc(model, batch, classify).loss, classify(model, batch).loss)


def test_a_proximal_step_holds_what_a_grown_head_had_and_leaves_the_new_outputs_free():
    ewc = EWC(1e9, step="proximal", eta=0.05)
    learner = Learner(net(2), Chain(GrowHead(), ewc), optimizer=SGD, batch_size=20, epochs=3)
    learner.learn(experience(0, classes=(0, 1)))
    old = snapshot(learner.model)
    learner.learn(experience(1, classes=(0, 1, 2, 3)))
    new = snapshot(learner.model)
    torch.testing.assert_close(new["3.weight"][:2], old["3.weight"], rtol=1e-3, atol=1e-4)
    assert (new["3.bias"][2:] != 0).all()
    learner.learn(experience(2, classes=(0, 1, 2, 3)))
    torch.testing.assert_close(snapshot(learner.model)["3.weight"], new["3.weight"], rtol=1e-2, atol=1e-3)


def test_a_proximal_step_without_strength_is_plain_fine_tuning():
    assert trains_plainly(EWC(0.0, step="proximal", eta=0.05))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "proximal"}, "the proximal step needs the learning rate, but eta is 0.0"),
        ({"step": "proximal", "eta": -1.0}, "but eta is -1.0"),
        ({"step": "implicit"}, "step must be one of gradient, proximal, but is 'implicit'"),
    ],
)
def test_a_step_that_cannot_be_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        EWC(**settings)
