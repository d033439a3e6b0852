"""Numbers to be predicted are learned in units of their deviation so far, and answered in those of the user."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from everlearn.checkpoint import same
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.models.standardise import Standardise
from everlearn.objective import regress
from everlearn.online.encoding import Encoder
from everlearn.online.engine import Online
from everlearn.online.making import make_online
from everlearn.streams.feed import Record

METHODS = ["naive", "er:memory=20,count=4", "der:memory=20,count=4", "agem:memory=20", "hedge"]


def engine(method="naive", *, fused=False, **options):
    model = "hedge:layers=2,width=8" if method == "hedge" else "mlp:hidden=8"
    options = {"optimizer": "sgd:lr=0.05", "dtype": "float64"} | options
    return make_online(task="regression", model=model, method=method, fused=fused, seed=1, **options)


def stream(count, unit=1.0, origin=0.0, first=0):
    draw = torch.Generator().manual_seed(2)
    for number, (a, b) in enumerate(torch.randn(first + count, 2, generator=draw, dtype=torch.float64).tolist()):
        if number >= first:
            yield Record(str(number), {"a": a, "b": b}), origin + unit * (a - 2 * b + a * b)


def learned(online, rows, size=3):
    rows = list(rows)
    for at in range(0, len(rows), size):
        online.learn(*map(list, zip(*rows[at : at + size], strict=True)))
    return online


def answers(online):
    return torch.tensor([each.answer for each in online.predict([row for row, _ in stream(20, first=500)])])


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("size", [1, 4])
def test_it_is_training_by_hand_on_standardised_numbers(size, fused):
    online = engine(fused=fused)
    rows = list(stream(32, 700.0, 300.0))
    x = torch.tensor([[row.fields["a"], row.fields["b"]] for row, _ in rows], dtype=torch.float64)
    y = torch.tensor([label for _, label in rows], dtype=torch.float64)
    learned(online, rows[:1], 1)  # then there are weights
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    for own, its in zip(net.parameters(), online.learner.model.parameters(), strict=True):
        own.data.copy_(its.detach())
    for end in range(1 + size, 30, size):
        learned(online, rows[end - size : end], size)
        scaled = [(part - part[:end].mean(0)) / part[:end].std(0, correction=0) for part in (x, y)]
        loss = (net(scaled[0][end - size : end].clamp(-5, 5)).flatten() - scaled[1][end - size : end]).square().mean()
        for own, gradient in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            own.data -= 0.05 * gradient
        asked = (x[end:] - x[:end].mean(0)) / x[:end].std(0, correction=0)
        expected = net(asked.clamp(-5, 5)).flatten() * y[:end].std(correction=0) + y[:end].mean()
        given = torch.tensor([each.answer for each in online.predict([row for row, _ in rows[end:]])])
        assert torch.allclose(given.double(), expected.detach().double(), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("method", METHODS)
def test_neither_the_unit_nor_the_origin_of_numbers_changes_what_is_learned(method, fused):
    if fused and method.startswith(("der", "agem")):
        pytest.skip("it makes another loss, which cannot be fused")
    plain, large = (learned(engine(method, fused=fused), stream(90, *unit)) for unit in ((), (1024.0, 5000.0)))
    assert torch.allclose(answers(large), answers(plain) * 1024 + 5000, rtol=1e-4, atol=0.5)
    bodies = [each.learner.model[1].state_dict().values() for each in (plain, large)]
    for one, other in zip(*bodies, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("method", METHODS[:2] + METHODS[4:])
def test_a_state_goes_on_bit_for_bit(method, fused):
    online = learned(engine(method, fused=fused), stream(40, 300.0))
    other = engine(method, fused=fused)
    other.load_state_dict(online.state_dict())
    for each in (online, other):
        learned(each, stream(20, 300.0, first=40))
    assert same(online.state_dict(), other.state_dict())
    assert answers(online).equal(answers(other))


def test_until_numbers_have_varied_the_answer_is_their_mean():
    online = engine()
    assert answers(online).eq(0).all()
    for row, _ in stream(3):
        online.learn([row], [250.0])
        assert answers(online).eq(250).all()


def test_a_memory_keeps_numbers_as_they_came():
    online = learned(engine("er:memory=20,count=4"), stream(20, 300.0, 40.0))
    kept = online.learner.method.memory.rows()["y"]
    assert sorted(kept.tolist()) == sorted(label for _, label in stream(20, 300.0, 40.0))


def test_a_refused_row_was_not_counted():
    online = learned(engine(optimizer="sgd:lr=1e200"), stream(1), 1)
    before = deepcopy(online.learner.model.state_dict())
    with pytest.raises(ValueError, match="the loss is"):
        learned(online, stream(1, first=1), 1)
    assert same(online.learner.model.state_dict(), before)
    assert online.targets.count.item() == 1


def test_what_was_saved_before_numbers_were_scaled_goes_on_as_it_was():
    def older():
        scale = Standardise()
        net = nn.Sequential(scale, nn.Linear(2, 1, dtype=torch.float64))
        with torch.no_grad():
            net[1].weight.fill_(0.5)
        learner = Learner(net, Method(), regress, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.01))
        scale.grow([False, False])
        return Online(learner, Encoder(["a", "b"], None, dtype="float64"))

    old = learned(older(), stream(20))
    new = make_online(task="regression", model="linear", fields=["a", "b"], dtype="float64", optimizer="sgd:lr=0.01")
    state = old.state_dict()
    state["encoder"]["settings"] = dict(new.encoder.settings)
    new.load_state_dict(state)
    assert answers(new).equal(answers(old))
    for each in (old, new):
        learned(each, stream(20, first=20))
    assert answers(new).equal(answers(old))


def test_not_scaled_means_numbers_too():
    online = learned(engine(scale=False), stream(5))
    assert online.targets is None
    assert not any(math.isnan(each) for each in answers(online).tolist())


@pytest.mark.parametrize("model", ["linear", "mlp:hidden=16"])
def test_inputs_that_change_for_the_first_time_late_in_the_stream_spoil_no_weights(model):
    online = make_online(task="regression", model=model)
    late = [
        (Record(row.id, row.fields | dict.fromkeys("pqr", float(int(row.id) >= 1000))), label)
        for row, label in stream(1200, 50.0)
    ]
    learned(online, late[:1000], 1)
    worst = 0.0
    for record, label in late[1000:]:
        worst = max(worst, abs(online.predict([record])[0].answer - label))
        online.learn([record], [label])
    assert worst < 20 * 50


@pytest.mark.parametrize("model", ["mlp:hidden=16", "hedge:layers=2,width=8"])
def test_numbers_that_change_for_the_first_time_late_in_the_stream_spoil_no_weights(model):
    online = learned(make_online(task="regression", model=model, seed=1), ((row, 0.0) for row, _ in stream(30)), 1)
    online.targets.update(torch.zeros(100_000, 1))
    for rows in stream(500, first=30):
        learned(online, [rows], 1)
        assert abs(online.predict([rows[0]])[0].answer) < 20
    assert online.targets.mean.item() != 0
