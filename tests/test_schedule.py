"""Rates that never end at 0, and schedules for streams of which nobody knows the length."""

from functools import partial

import pytest
import torch
from methods.small import everything, net, rows

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.models.heads import grow
from everlearn.schedule import cosine, inverse_decay, linear, one_cycle, paced, unending, warmup
from everlearn.workspace.training import make_scheduler

SGD = partial(torch.optim.SGD, lr=0.5)


def stream(count=20):
    data = everything(rows(4 * count))
    return [{name: column[4 * i : 4 * i + 4] for name, column in data.items()} for i in range(count)]


def observing(optimizer, **options):
    return Learner(net(), optimizer=optimizer, **options)


def used(optimizer, steps):
    """The rates at which steps are taken: what a gradient of 1 moves a weight by."""
    weight = torch.nn.Parameter(torch.zeros(()))
    stepping, found = optimizer([weight]), []
    for _ in range(steps):
        before = weight.item()
        weight.grad = torch.ones(())
        stepping.step()
        found.append(before - weight.item())
    return found


@pytest.mark.parametrize("schedule", [cosine, linear, one_cycle, inverse_decay, partial(warmup, then="linear")])
def test_no_rate_is_below_the_floor(schedule):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))])
    scheduler = paced(schedule, floor=0.3)(optimizer, 10)
    rates = []
    for _ in range(15):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert min(rates) >= 0.15
    assert rates[-1] == 0.5 * max(0.3, schedule(1.0))


def test_a_floor_of_0_is_the_schedule_itself():
    rates = []
    for floor in ({}, {"floor": 0.0}):
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))])
        scheduler = paced(cosine, **floor)(optimizer, 5)
        for _ in range(5):
            optimizer.step()
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:5] == rates[5:]


def test_the_command_line_knows_the_floor():
    for text in ("inverse:alpha=10,floor=0.2", "warmup:share=0.5,then=cosine,floor=0.2"):
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))])
        scheduler = make_scheduler(text)(optimizer, 4)
        for _ in range(4):
            optimizer.step()
            scheduler.step()
        assert optimizer.param_groups[0]["lr"] >= 0.1
    with pytest.raises(ValueError, match="floor"):
        make_scheduler("inverse:floor=2")


def test_a_stream_warms_up_and_goes_on_at_its_rate():
    rates = used(unending(SGD, warmup, over=4, share=1, start=0.2), 10)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4] + [0.5] * 6)


def test_a_stream_decays_to_a_floor_and_stays_there():
    rates = used(unending(SGD, inverse_decay, over=10, floor=0.2), 40)
    assert rates[:3] == pytest.approx([0.5 * max(0.2, inverse_decay(i / 10)) for i in range(3)])
    assert rates[10:] == pytest.approx([0.1] * 30, abs=1e-6)


def test_between_steps_the_rate_is_as_it_was_set_and_who_changes_it_changes_it_by_a_factor():
    subject = observing(unending(SGD, warmup, over=4, share=1))
    plain = observing(SGD)
    for batch in stream(2):
        subject.observe(batch)
        plain.observe(batch)
        assert subject.optimizer.param_groups[0]["lr"] == 0.5
    weight = torch.nn.Parameter(torch.zeros(()))
    stepping = unending(SGD, warmup, over=4, share=1, start=0.2)([weight])
    stepping.param_groups[0]["lr"] *= 3
    weight.grad = torch.ones(())
    stepping.step()
    assert weight.item() == pytest.approx(-0.3)
    assert stepping.param_groups[0]["lr"] == 1.5


def test_a_stream_resumes_exactly_in_the_middle_of_its_schedule(tmp_path):
    make = unending(partial(torch.optim.SGD, lr=0.1, momentum=0.9), warmup, over=12, share=1)
    whole = observing(make)
    for i, batch in enumerate(stream()):
        if i == 7:
            checkpoint.save(whole.state_dict(), tmp_path / "learner")
        whole.observe(batch)
    again = observing(make)
    again.load_state_dict(checkpoint.load(tmp_path / "learner"))
    for batch in stream()[7:]:
        again.observe(batch)
    assert checkpoint.same(whole.state_dict(), again.state_dict())


def test_weights_that_come_later_are_stepped_too():
    subject = observing(unending(partial(torch.optim.Adam, lr=0.1), warmup, over=5, share=1))
    first, *others = stream(8)
    subject.observe(first)
    with subject.changing() as model:
        grow(model, 6)
        model.append(torch.nn.Linear(6, 6))
    before = [weight.detach().clone() for weight in subject.model[4].parameters()]
    for batch in others:
        subject.observe(batch)
    assert all(not torch.equal(a, b) for a, b in zip(before, subject.model[4].parameters(), strict=True))
    assert {group["lr"] for group in subject.optimizer.param_groups} == {0.1}


def test_a_schedule_that_stays_at_1_is_no_schedule_bit_for_bit():
    learners = [observing(make) for make in (SGD, unending(SGD, warmup, over=3, share=0))]
    for batch in stream():
        for each in learners:
            each.observe(batch)
    assert all(torch.equal(a, b) for a, b in zip(*(each.model.parameters() for each in learners), strict=True))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="over must be at least 1"):
        unending(SGD, warmup, over=0)
    with pytest.raises(ValueError, match="floor is a share"):
        unending(SGD, warmup, over=5, floor=1.5)
    with pytest.raises(ValueError, match="share is a part of the way"):
        unending(SGD, warmup, over=5, share=3)
