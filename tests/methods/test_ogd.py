"""OGD steps only where the logits of old rows do not change, to first order."""

import pytest
import torch
from methods.small import (
    OPTIMIZERS,
    assert_end_leaves_no_trace,
    everything,
    experience,
    heads,
    learner,
    net,
    norm_net,
    of_task,
    rows,
    trains_plainly,
)

from everlearn import checkpoint
from everlearn.batch import UNLABELED, take
from everlearn.data import Columns
from everlearn.data.order import epoch_order
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.ogd import OGD
from everlearn.models.gradients import strongest, within
from everlearn.models.views import evaluating, snapshot, trainable
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience


def logit_gradients(model, batch, objective=classify):
    """Of the logit of the class of each row, (rows, weights), one backward pass each."""
    found = []
    with evaluating(model):
        for place in range(len(batch["y"])):
            row = take(batch, slice(place, place + 1))
            logit = objective(model, row).logits[0, row["y"][0]]
            grads = torch.autograd.grad(logit, list(trainable(model).values()), materialize_grads=True)
            found.append(torch.cat([grad.reshape(-1) for grad in grads]))
    return torch.stack(found)


def vector(model):
    return torch.cat([weight.detach().reshape(-1) for weight in trainable(model).values()])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_changes_an_old_logit_to_first_order(optimizer):
    subject = learner(OGD(rows=8), optimizer=OPTIMIZERS[optimizer])
    old = []
    for index in range(3):
        last = vector(subject.model)
        for _ in subject.steps(experience(index)):
            step = vector(subject.model) - last
            last = vector(subject.model)
            assert step.norm() > 1e-5
            for gradients in old:
                assert (gradients @ step).abs().max() < 1e-4 * step.norm() * gradients.norm(dim=1).max()
        old.append(held_gradients(subject, index))
    assert subject.method.strength.shape == (24,)


def held_gradients(subject, index):
    """Of the rows that it drew: those that its directions span, among all."""
    gradients = logit_gradients(subject.model, everything(experience(index).train))
    v = torch.cat([part.flatten(1) for part in subject.method.basis.values()], 1)
    outside = gradients - gradients @ v.T @ v
    held = outside.norm(dim=1) < 1e-4 * gradients.norm(dim=1)
    assert held.sum() == 8
    return gradients[held]


def test_with_plain_sgd_it_is_the_gradient_that_gram_schmidt_makes_orthogonal():
    subject = learner(OGD(rows=20), epochs=1)
    subject.learn(experience(0))
    basis = []
    for gradient in logit_gradients(subject.model, everything(experience(0).train)):
        for v in basis:
            gradient = gradient - (gradient @ v) * v  # noqa: PLW2901 (as the paper writes it)
        basis.append(gradient / gradient.norm())
    before = vector(subject.model)
    batch = everything(rows(8, seed=9))
    grads = torch.autograd.grad(classify(subject.model, batch).loss, list(subject.model.parameters()))
    g = torch.cat([grad.reshape(-1) for grad in grads])
    for v in basis:
        g = g - (g @ v) * v
    subject.observe(batch)
    torch.testing.assert_close(vector(subject.model), before - 0.1 * g, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("variant", "directions"), [("gtl", 6), ("all", 24), ("ave", 6)])
def test_the_variants_hold_one_logit_all_of_them_or_their_mean(variant, directions):
    subject = learner(OGD(rows=6, variant=variant))
    subject.learn(experience(0))
    assert subject.method.strength.shape == (directions,)
    v = torch.cat([part.flatten(1) for part in subject.method.basis.values()], 1)
    torch.testing.assert_close(v @ v.T, torch.eye(directions), atol=1e-5, rtol=0)


def test_logits_move_less_than_in_plain_training():
    moved = {}
    for name, method in {"plain": Naive(), "held": OGD(rows=20, variant="all")}.items():
        subject = learner(method)
        subject.learn(experience(0))
        before = subject.predict(everything(experience(0).train))
        next(iter(subject.steps(experience(1))))
        moved[name] = (subject.predict(everything(experience(0).train)) - before).abs().max()
    assert moved["held"] < 0.1 * moved["plain"]


def test_of_too_many_directions_the_strongest_stay():
    subject = learner(OGD(directions=10, rows=8))
    for index in range(4):
        subject.learn(experience(index))
        assert subject.method.strength.shape == (min(10, 8 * (index + 1)),)
        assert all(len(part) == len(subject.method.strength) for part in subject.method.basis.values())
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 30, generator=random) * torch.logspace(0, -1, 12)[:, None]
    basis, strength = strongest(vectors, 5)
    _, s, vh = torch.linalg.svd(vectors, full_matrices=False)
    torch.testing.assert_close(strength, s[:5])
    torch.testing.assert_close((basis @ vh[:5].T).abs(), torch.eye(5), atol=1e-4, rtol=0)


def test_rows_that_say_the_same_take_one_direction():
    vectors = torch.ones(3, 7)
    basis, strength = strongest(vectors, 10)
    assert basis.shape == (1, 7)
    torch.testing.assert_close(strength, torch.tensor([21.0]).sqrt())


@pytest.mark.parametrize("mute", [OGD(directions=0), OGD(rows=0)])
@pytest.mark.parametrize("model", [net, norm_net])
def test_without_directions_it_is_plain_training_bit_for_bit(mute, model):
    assert trains_plainly(mute, model)


def test_a_head_may_grow_and_its_new_outputs_are_free():
    subject = learner(Chain(GrowHead(), OGD(rows=5)), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    before = {name: part.clone() for name, part in subject.method.methods[1].basis.items()}
    steps = subject.steps(experience(1, classes=(0, 1, 2, 3)))
    next(steps)
    basis = subject.method.methods[1].basis["3.weight"]
    assert basis.shape == (5, 4, 6)
    assert torch.equal(basis[:, :2], before["3.weight"])
    assert not basis[:, 2:].any()
    for _ in steps:
        pass
    assert subject.method.methods[1].basis["3.weight"].shape == (10, 4, 6)


EVERY = ("0.weight", "0.bias", "3.weight", "3.bias")


def of_these(model, members, **options):
    return lambda _: torch.optim.SGD([model.get_parameter(name) for name in members], **{"lr": 0.1} | options)


@pytest.mark.parametrize("classes", [4, 2])
@pytest.mark.parametrize(
    "members", [EVERY, ("3.weight", "3.bias"), ("0.weight",), ("3.bias",), ("0.bias", "3.weight")], ids="+".join
)
def test_it_is_the_nearest_step_of_the_weights_in_the_optimizer_that_changes_no_old_logit(members, classes):
    """Whether there are fewer directions than weights in the optimizer, or more."""
    subject = learner(OGD(rows=8))
    subject.learn(experience(0, classes=range(classes)))
    model, method, batch = subject.model, subject.method, everything(rows(8, seed=9))
    named = trainable(model)
    grads = dict(zip(named, torch.autograd.grad(classify(model, batch).loss, list(named.values())), strict=True))
    d = torch.cat([-0.1 * grads[name].flatten() * (name in members) for name in named]).double()
    v = torch.cat([method.basis[name].flatten(1) * (name in members) for name in named], 1).double()
    before, last = vector(model), snapshot(model)
    Learner(model, method, optimizer=of_these(model, members)).observe(batch)
    moved = vector(model) - before
    torch.testing.assert_close(moved, (d - torch.linalg.pinv(v, rtol=1e-6) @ v @ d).float(), atol=2e-7, rtol=1e-5)
    assert (v @ moved.double()).abs().max() < 1e-5 * d.norm()
    assert {name for name in named if not torch.equal(last[name], named[name])} <= set(members)


def test_with_the_head_alone_in_the_optimizer_old_logits_stay_and_so_does_the_body_bit_for_bit():
    """The head is linear: what holds to first order holds however far it goes."""
    subject = learner(OGD(rows=8))
    subject.learn(experience(0))
    model, old = subject.model, experience(0).train.take(epoch_order(20, 0, 0, 0)[:8])
    head = Learner(model, subject.method, optimizer=of_these(model, EVERY[2:], momentum=0.9), batch_size=8, epochs=9)
    before, body = head.predict(old), snapshot(model[0])
    for _ in head.steps(experience(1)):
        apart = (head.predict(old) - before).abs()
    assert checkpoint.same(body, snapshot(model[0]))
    assert apart.gather(1, old["y"][:, None]).max() < 1e-5
    assert apart.max() > 0.5


def test_a_step_of_no_length_and_directions_of_none_change_nothing():
    subject = learner(OGD(rows=8))
    subject.learn(experience(0))
    model, method, before = subject.model, subject.method, snapshot(subject.model)
    Learner(model, method, optimizer=of_these(model, EVERY, lr=0.0)).observe(everything(rows(8)))
    assert checkpoint.same(before, snapshot(model))
    step = [torch.ones(3), torch.ones(2)]
    none = within([torch.zeros(0, 3), torch.zeros(0, 2)], [torch.zeros(0, 0, dtype=torch.float64)] * 2, step)
    assert all(torch.equal(away, torch.zeros_like(each)) for away, each in zip(none, step, strict=True))


def test_what_is_frozen_later_does_not_weaken_the_hold_of_the_rest():
    subject = learner(OGD(rows=8))
    subject.learn(experience(0))
    old = held_gradients(subject, 0)[:, 36:]  # of the head
    subject.model[0].requires_grad_(requires_grad=False)
    frozen = subject.model[0].weight.clone()
    for _ in subject.steps(experience(1)):
        assert torch.equal(subject.model[0].weight, frozen)
        break
    last = vector(subject.model)
    subject.observe(everything(rows(8, seed=9)))
    step = vector(subject.model) - last
    assert step.norm() > 1e-3
    assert (old @ step).abs().max() < 1e-5 * step.norm() * old.norm(dim=1).max()


def test_each_task_is_held_through_its_own_head():
    model = heads()
    subject = learner(OGD(rows=5), model, objective=classify_by_task)
    subject.learn(of_task(0, rows(seed=0, classes=2)))
    unused = snapshot(model.heads[0])
    subject.learn(of_task(1, rows(seed=1, classes=2)))
    assert checkpoint.same(unused, snapshot(model.heads[0]))  # the body makes up for it
    used = [bool(subject.method.basis[f"heads.{index}.weight"].any()) for index in range(3)]
    assert used == [True, True, False]


def test_rows_without_a_label_are_passed_over_and_a_stream_without_labels_needs_another_variant():
    data = Columns(x=torch.randn(6, 5), y=torch.tensor([0, UNLABELED, 1, UNLABELED, 2, 3]))
    method = OGD()
    method.end(net(), Experience(0, data, data), classify)
    assert len(method.strength) == 4
    blank = Columns(x=torch.randn(6, 5))
    with pytest.raises(ValueError, match="variants all and ave"):
        OGD().end(net(), Experience(0, blank, blank), classify)
    method = OGD(variant="ave")
    method.end(net(), Experience(0, blank, blank), classify)
    assert len(method.strength) == 6


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be one of gtl, all, ave"):
        OGD(variant="gtal")


def test_the_end_leaves_the_model_as_it_was():
    assert_end_leaves_no_trace(OGD())
