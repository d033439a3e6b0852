"""Each weight has one group and the rate of its part, in `lr` itself, through growth, thawing and resume."""

import copy
from functools import partial

import pytest
import torch
from methods.small import experience, heads, of_task, rows
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead, LoRA
from everlearn.models import snapshot
from everlearn.objective import classify_by_task
from everlearn.schedule import inverse_decay, one_cycle, paced, ramp, warmup
from everlearn.transfer.freezing import freeze, thaw
from everlearn.transfer.rates import grouped, learner_groups
from everlearn.workspace.training import make_optimizer, make_scheduler

SGD = partial(torch.optim.SGD, lr=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def net(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, outputs)
    )


def learner(model, make=SGD, method=None, *, rates=None, **options):
    factory = grouped(make, model, **(rates or {"head": 10, "decay": 0.5}))
    return Learner(model, method, optimizer=factory, **{"batch_size": 8, "epochs": 1} | options)


def rates_of(subject):
    return {group.name: group.rate for group in learner_groups(subject).groups}


def test_a_head_has_its_factor_and_deeper_blocks_have_smaller_rates():
    model = net()
    optimizer = grouped(SGD, model, head=10, decay=0.5)(list(model.parameters()))
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [("0", 0.025), ("3", 0.05), ("head", 1.0)]
    assert [len(g["params"]) for g in optimizer.param_groups] == [4, 2, 2]
    assert [g["lr"] for g in grouped(SGD, model, head=10)(list(model.parameters())).param_groups] == [0.1, 1.0]


def test_the_rates_are_what_the_weights_really_move_by():
    """The oracle: steps by hand, with a rate for each weight."""
    model = net()
    by_hand = copy.deepcopy(model)
    optimizer = grouped(SGD, model, head=10, decay=0.5)(list(model.parameters()))
    rate = {"0": 0.025, "1": 0.025, "3": 0.05, "5": 1.0}
    x, y = torch.randn(16, 5), torch.randint(4, (16,))
    for _ in range(3):
        for each in (model, by_hand):
            each.zero_grad()
            nn.functional.cross_entropy(each(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in by_hand.named_parameters():
                weight.sub_(rate[name.split(".")[0]] * weight.grad)
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [SGD, ADAMW])
def test_weight_decay_may_be_for_matrices_only(make):
    model = net()
    optimizer = grouped(partial(make, weight_decay=0.1), model, decayed="matrices")(list(model.parameters()))
    for group in optimizer.param_groups:
        assert {weight.dim() > 1 for weight in group["params"]} == {group["weight_decay"] == 0.1}
        assert group["name"].endswith(", no decay") == (group["weight_decay"] == 0)
    with pytest.raises(ValueError, match="Rprop has no weight decay"):
        grouped(torch.optim.Rprop, model, decayed="matrices")(list(model.parameters()))


def each_once(subject):
    learning = [
        weight for weight in (*subject.model.parameters(), *subject.method.parameters()) if weight.requires_grad
    ]
    members = [id(weight) for group in subject.optimizer.param_groups for weight in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == set(map(id, learning))


@pytest.mark.parametrize("make", [SGD, ADAMW])
def test_each_weight_is_in_one_group_through_growth_and_thawing(make):
    model = net(2)
    freeze(model, first=1)
    subject = learner(model, make, GrowHead())
    subject.learn(experience(0, classes=(0, 1)))
    each_once(subject)
    before = rates_of(subject)
    subject.learn(experience(1))
    each_once(subject)
    assert rates_of(subject) == before
    thaw(model)
    subject.learn(experience(2))
    each_once(subject)
    base = make.keywords["lr"]
    assert rates_of(subject) == {"3": base * 0.5, "head": base * 10, "0": base * 0.25}


def test_a_part_thawed_joins_the_group_of_its_block():
    model = net()
    freeze(model, "1")
    subject = learner(model)
    subject.learn(experience(0))
    thaw(model)
    subject.learn(experience(1))
    each_once(subject)
    assert [group.names for group in learner_groups(subject).groups] == [
        ("0.weight", "0.bias", "1.weight", "1.bias"),
        ("3.weight", "3.bias"),
        ("5.weight", "5.bias"),
    ]


def test_what_the_model_does_not_know_has_the_rate_of_the_head():
    model = net()
    subject = learner(model, method=LoRA(r=2))
    subject.learn(experience())
    each_once(subject)
    groups = {group.name: group for group in learner_groups(subject).groups}
    assert groups["new"].rate == 1.0
    assert all(name.startswith("method.adapters") for name in groups["new"].names)


def test_heads_of_new_tasks_are_part_of_the_head():
    model = heads(1)
    subject = learner(model, method=GrowHead(), objective=classify_by_task)
    for index in range(3):
        subject.learn(of_task(index, rows(20, classes=2)))
    each_once(subject)
    (last,) = [group for group in learner_groups(subject).groups if group.name == "head"]
    assert last.names == tuple(f"heads.{task}.{part}" for task in range(3) for part in ("weight", "bias"))


@pytest.mark.parametrize("pause", [1, 4, 7])
@pytest.mark.parametrize("scheduler", [None, paced(inverse_decay), paced(one_cycle, share=0.5)])
def test_resume_is_exact_with_growth_thawing_and_a_schedule(pause, scheduler, tmp_path):
    def fresh():
        model = net(2)
        freeze(model, first=1)
        return learner(model, ADAMW, Chain(GrowHead(), LoRA(r=2, targets="3.*")), scheduler=scheduler)

    def go(subject, until=None):
        for index in range(subject.experience, 3):
            if index == 2:
                thaw(subject.model)
            for step in subject.steps(experience(index, classes=(0, 1, 2)[: 2 + (index > 0)])):
                if step.number == until:
                    return

    whole, first = fresh(), fresh()
    go(whole)
    go(first, pause)
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = fresh()
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    go(second)
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert learner_groups(whole) == learner_groups(second)
    each_once(second)


@pytest.mark.parametrize("scheduler", [paced(inverse_decay), paced(one_cycle), make_scheduler("onecycle:max_lr=0.3")])
def test_a_schedule_keeps_the_factors_of_the_parts(scheduler):
    subject = learner(net(), scheduler=scheduler)
    seen = []
    for _ in subject.steps(experience()):
        found = rates_of(subject)
        seen.append(found["head"])
        assert found["head"] / found["0"] == pytest.approx(40)
    assert len(set(seen)) > 1


def test_a_schedule_goes_by_progress_and_begins_anew_with_each_experience():
    for count in (16, 40):
        subject = Learner(net(), optimizer=SGD, scheduler=paced(inverse_decay, alpha=10), batch_size=8)
        for index in range(2):
            steps = count // 8
            rates, hook = [], None
            for _ in subject.steps(experience(index, count=count)):
                hook = hook or subject.optimizer.register_step_pre_hook(
                    lambda optimizer, *_, rates=rates: rates.append(optimizer.param_groups[0]["lr"])
                )
            hook.remove()
            expected = [0.1 * inverse_decay(step / steps) for step in range(1, steps)]
            assert rates == pytest.approx(expected)
            assert subject.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * inverse_decay(1))


def test_a_schedule_with_bad_settings_is_refused_at_once():
    with pytest.raises(ValueError, match=r"share is a part of the way, from 0 to 1, but is 1\.5"):
        paced(warmup, share=1.5)
    with pytest.raises(ValueError, match="then must be one of constant, linear, cosine"):
        paced(warmup, then="step")
    with pytest.raises(TypeError):
        paced(ramp, alpha=3)
    assert [warmup(t, share=0) for t in (0, 1)] == [1, 1]
    assert warmup(1, share=1, start=0.5) == 1
    assert [one_cycle(t, share=share) for t, share in ((0, 0), (1, 1))] == [1, 1]


def test_the_table_shows_what_is_there_before_and_after_the_first_step():
    model = net()
    subject = learner(model, ADAMW)
    first = learner_groups(subject)
    assert subject.optimizer is None
    assert [(g.name, g.parameters, g.weight_decay) for g in first.groups] == [
        ("0", 48, 0.1),
        ("3", 42, 0.1),
        ("head", 28, 0.1),
    ]
    subject.learn(experience())
    assert learner_groups(subject) == first
    assert first.table().row_count == 3
    assert str(first).startswith("0: lr 0.0025, 48 parameters; 3: lr 0.005")
    plain = Learner(model, optimizer=SGD)
    assert [group.name for group in learner_groups(plain).groups] == ["0"]


def test_what_cannot_be_grouped_is_refused():
    model = net()
    with pytest.raises(ValueError, match="decay one above 0 and up to 1, but they are 1 and 2"):
        grouped(SGD, model, head=1, decay=2)
    with pytest.raises(TypeError, match="LBFGS has one group"):
        grouped(torch.optim.LBFGS, model)(list(model.parameters()))
    with pytest.raises(ValueError, match="but are of a copy of it"):
        grouped(SGD, copy.deepcopy(model))(list(model.parameters()))
    with pytest.raises(ValueError, match="group, but this one made 2"):
        grouped(lambda ws: SGD([{"params": ws[:2]}, {"params": ws[2:]}]), model)(list(model.parameters()))
    left_out = grouped(lambda ws: SGD(ws[2:]), model, head=10)(list(model.parameters()))
    assert sum(len(group["params"]) for group in left_out.param_groups) == 6


def test_an_optimizer_of_text_has_rates_by_part():
    model = net()
    make = make_optimizer("adamw:lr=0.01,weight_decay=0.1,head=10,decay=0.5,decayed=matrices", model)
    found = {
        group["name"]: (group["lr"], group["weight_decay"]) for group in make(list(model.parameters())).param_groups
    }
    assert found["head"] == (0.1, 0.1)
    assert found["head, no decay"] == (0.1, 0)
    assert found["0"] == (0.0025, 0.1)
    named = make_optimizer("sgd:lr=0.1,head=10", model, "3")(list(model.parameters()))
    assert [len(group["params"]) for group in named.param_groups] == [6, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sgd:lr=0.1,heads=10", "sgd has no setting 'heads' \\(did you mean 'head'"),
        ("sgd:lr=0.1,decay=2", "decay one above 0 and up to 1"),
        ("sgd:lr=0.1,head=ten", "sgd cannot be made with head=ten"),
        ("sgd:lr=0.1,decayed=some", "no choice of what is decayed 'some'"),
        ("rprop:lr=0.1,decayed=matrices", "Rprop has no weight decay"),
    ],
)
def test_text_that_means_no_optimizer_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        make_optimizer(text, net())


def test_rates_by_part_need_a_model():
    with pytest.raises(ValueError, match="rates by part of a model, and here is none; leave out head"):
        make_optimizer("sgd:lr=0.1,head=10")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("inverse:alpha=10,beta=0.75", 1, 11**-0.75),
        ("warmup:share=0.5", 0.1, 1),
        ("warmup:share=0.2,start=0.5,then=cosine", 0.5, 0),
        ("onecycle", 0.04, 4e-6),
    ],
)
def test_a_schedule_of_text_goes_by_progress(text, first, last):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], momentum=0.9)
    scheduler = make_scheduler(text)(optimizer, 10)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(9 if text == "onecycle" else 10):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert (rates[0], rates[-1]) == (pytest.approx(0.1 * first), pytest.approx(0.1 * last, abs=1e-9))
    with pytest.raises(ValueError, match="has no setting 'alfa'"):
        make_scheduler("inverse:alfa=1")
    with pytest.raises(ValueError, match="share is a part of the way"):
        make_scheduler("warmup:share=2")


def test_factors_of_one_are_the_plain_optimizer_bit_for_bit_with_clipping_and_a_tied_head():
    found = []
    for by_part in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False))
        model[4].weight = model[2].weight
        subject = Learner(model, optimizer=grouped(ADAMW, model) if by_part else ADAMW, batch_size=8, clip=0.05)
        subject.learn(experience())
        found.append(snapshot(model))
    assert checkpoint.same(*found)
    assert [group["name"] for group in subject.optimizer.param_groups] == ["body", "head"]
    members = [id(weight) for group in subject.optimizer.param_groups for weight in group["params"]]
    assert sorted(members) == sorted(id(weight) for weight in model.parameters())
