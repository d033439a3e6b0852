"""What alignment without an adversary owes: any numbers of rows on two sides, float32, exact resume, no trace at 0."""

import pytest
import torch
from methods.sides import adaptation, batch, learner, side
from methods.small import experience, net, rows

from everlearn import checkpoint
from everlearn.batch import UNLABELED, take
from everlearn.data import Columns
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import AFN, CORAL, DAN, JAN, MCC, FixMatch, Naive, Replay
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience


def louder(batch, key):
    """A strong view of rows of numbers: noise that the key and the id of a row decide."""
    noise = [torch.randn(5, generator=torch.Generator().manual_seed((key + int(row)) % 2**31)) for row in batch["id"]]
    return {**batch, "x": batch["x"] + 0.3 * torch.stack(noise).to(batch["x"])}


METHODS = {
    "coral": lambda **options: CORAL(**{"trade_off": 10.0} | options),
    "dan": DAN,
    "jan": JAN,
    "mcc": MCC,
    "afn": AFN,
    "fixmatch": lambda **options: FixMatch(**{"threshold": 0.3, "strong": louder} | options),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_gap = pytest.mark.parametrize("name", sorted(METHODS.keys() - {"fixmatch"}))


def begun(name, model, **options):
    method = METHODS[name](**options)
    method.begin(model, experience(), classify)
    return method


@every_method
@pytest.mark.parametrize(("labelled", "unlabelled"), [(5, 8), (8, 5), (1, 4), (4, 1), (1, 1)])
def test_the_sides_may_have_any_numbers_of_rows(name, labelled, unlabelled):
    model = net()
    loss = begun(name, model)(model, batch(labelled, unlabelled), classify).loss
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@every_method
def test_the_order_of_the_rows_means_nothing(name):
    model = net()
    method = begun(name, model)
    mixed = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    one, other = (method(model, batch(order=order), classify).loss for order in (None, mixed))
    torch.testing.assert_close(one, other)
    assert one != classify(model, batch()).loss


@every_method
def test_without_one_of_the_sides_there_is_nothing_to_add(name):
    model = net()
    method, known = begun(name, model), take(batch(), slice(8, None))
    assert torch.equal(method(model, known, classify).loss, classify(model, known).loss)
    if name != "fixmatch":
        assert method(model, {"x": batch()["x"]}, classify).loss is None


@every_method
def test_a_strength_of_0_is_plain_training_bit_for_bit(name):
    found = []
    for method in (Naive(), METHODS[name](trade_off=0.0)):
        subject = learner(method)
        for index in range(2):
            subject.learn(adaptation(index))
        found.append(snapshot(subject.model))
    assert checkpoint.same(*found)


@every_method
def test_resume_is_exact(name):
    whole = learner(METHODS[name]())
    first = learner(METHODS[name]())
    whole.learn(adaptation(0))
    for step in first.steps(adaptation(0)):
        if step.number == 2:
            break
    second = learner(METHODS[name]())
    second.load_state_dict(first.state_dict())
    second.learn(adaptation(0))
    for subject in (whole, second):
        subject.learn(adaptation(1))
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert not checkpoint.same(snapshot(whole.model), snapshot(net()))


@every_gap
def test_the_gap_is_computed_in_float32_under_autocast(name):
    model = net()
    method, seen = begun(name, model), []

    class Watched(type(method)):
        def gap(self, model, source, target):
            gap = super().gap(model, source, target)
            seen.append((source, target, gap, torch.is_autocast_enabled("cpu")))
            return gap

    method.__class__ = Watched
    with torch.autocast("cpu", torch.bfloat16):
        method(model, batch(), classify)
    source, target, gap, cast = seen[0]
    assert not cast
    assert {each.dtype for each in (*source[:2], *target[:2], gap)} == {torch.float32}
    assert torch.equal(gap, METHODS[name]().gap(model, source, target))


@every_gap
def test_features_that_are_all_the_same_leave_the_gradient_finite(name):
    for value in (0.0, 1000.0):
        sides = [each._replace(features=torch.full_like(each.features, value)) for each in (side(5), side(8))]
        for each in sides:
            each.features.requires_grad_()
        METHODS[name]().gap(net(), *sides).backward()
        for each in sides:
            assert each.features.grad is None or each.features.grad.abs().max() < 1e3


@every_method
def test_behind_replay_old_rows_are_the_source_and_new_ones_without_labels_are_adapted_to(name):
    def learned(method):
        subject = learner(Chain(Replay(Memory(20), count=6), method), reference_size=None)
        subject.learn(experience(0))
        data = Columns(x=adaptation(1).train.column("x"), y=torch.full((20,), UNLABELED))
        subject.learn(Experience(1, data, data, (0, 1, 2, 3)))
        return snapshot(subject.model)

    assert not checkpoint.same(learned(METHODS[name]()), learned(Naive()))


@every_method
def test_labelled_rows_alone_are_learned_plainly(name):
    found = []
    for method in (Naive(), METHODS[name]()):
        subject = learner(method)
        subject.learn(Experience(0, rows(20), rows(20), (0, 1, 2, 3)))
        found.append(snapshot(subject.model))
    assert checkpoint.same(*found)
