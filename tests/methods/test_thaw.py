"""Groups wake up by progress; what sleeps is bit for bit as it was, in weights, statistics and optimizer."""

import pytest
import torch
from methods.small import DECAYING as OPTIMIZERS
from methods.small import assert_resume_is_exact, experience, growing, heads, learner, of_task, rows, trains_plainly
from torch import nn

from everlearn import checkpoint
from everlearn.batch import tensor
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods.composition import build
from everlearn.methods.derpp import DERpp
from everlearn.methods.growth import GrowHead
from everlearn.methods.thaw import Thaw
from everlearn.models import MLP, snapshot
from everlearn.models.blocks import named_groups, runs
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience
from everlearn.transfer.freezing import freeze

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def net(outputs=4):
    """Two blocks with batch normalisation and dropout, and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, outputs)
    )


def moved(before, after):
    return {name.split(".")[0] for name, value in after.items() if not torch.equal(before[name], value)}


@every_optimizer
def test_group_k_of_n_learns_from_progress_k_over_n_and_is_untouched_until_then(make):
    model = net()
    subject = learner(Thaw(stages=3), model, optimizer=make, epochs=4)  # 12 steps: until 4, 8, 12
    first, awake = snapshot(model), []
    members = None
    for step in subject.steps(experience()):
        awake.append(moved(first, snapshot(model)))
        members = members or [id(w) for group in subject.optimizer.param_groups for w in group["params"]]
        if step.place <= 8:
            assert model[0].weight not in subject.optimizer.state
            assert model[0].weight.grad is None
    assert members == [id(weight) for weight in model.parameters()]  # all of them, from the start
    assert awake == [{"5"}] * 4 + [{"3", "4", "5"}] * 4 + [{"0", "1", "3", "4", "5"}] * 4


def test_what_sleeps_is_in_eval_mode_and_what_learns_in_train_mode():
    model, seen = net(), []

    def watching(inner, batch):
        seen.append([module.training for module in model])
        return classify(inner, batch)

    subject = learner(Thaw(stages=3), model, epochs=4)
    subject.objective = watching
    for _ in subject.steps(experience()):
        assert all(module.training for module in model.modules())  # between two steps it is the user's
        assert all(weight.requires_grad for weight in model.parameters())
    trained = [modes for modes in seen if modes[5]]
    assert trained == [[False] * 5 + [True]] * 4 + [[False] * 2 + [True] * 4] * 4 + [[True] * 6] * 4


@every_optimizer
def test_a_gradient_from_outside_of_the_chain_below_wakes_nothing(make):
    model = net()
    subject = learner(Chain(DERpp(Memory(20), count=8), Thaw(stages=2)), model, optimizer=make)
    subject.learn(experience(0))
    first = {name: value for name, value in snapshot(model).items() if name.split(".")[1] in ("weight", "bias")}
    for step in subject.steps(experience(1)):
        names = moved(first, {name: snapshot(model)[name] for name in first})
        assert names == ({"5"} if step.place <= 3 else {"0", "1", "3", "4", "5"})


def test_until_0_is_fine_tuning_bit_for_bit():
    assert trains_plainly(Thaw(until=0), net, optimizer=OPTIMIZERS["sgd"])


def test_the_head_alone_is_logistic_regression_on_features_that_stand_still():
    """The oracle: features taken once in eval mode, and a loop over the head."""
    model = net()
    head = nn.Linear(6, 4)
    head.load_state_dict(model[5].state_dict())
    data = experience()
    batch = data.train.take(torch.arange(20))
    with torch.no_grad():
        features = model.eval()[:5](tensor(batch, "x"))
    model.train()
    optimizer = OPTIMIZERS["adamw"](head.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), batch["y"]).backward()
        optimizer.step()
    subject = learner(Thaw(stages=2), model, optimizer=OPTIMIZERS["adamw"], epochs=10, batch_size=20)
    for step in subject.steps(data):
        if step.place == 5:
            break
    torch.testing.assert_close(model[5].weight, head.weight)


def test_resume_is_exact(tmp_path):
    def fresh():
        return learner(Chain(GrowHead(), Thaw(stages=3)), net(2), optimizer=OPTIMIZERS["adamw"])

    assert_resume_is_exact(fresh, growing(), (1, 3, 4, 9), tmp_path)


def test_groups_by_name_have_their_own_starts_and_the_rest_comes_last():
    model = net()
    subject = learner(Thaw(groups="head/0@0.25"), model, epochs=4)
    next(iter(subject.steps(experience())))
    assert subject.method.waves == [
        ["5.weight", "5.bias"],
        ["0.weight", "0.bias"],
        ["1.weight", "1.bias", "3.weight", "3.bias", "4.weight", "4.bias"],
    ]
    assert subject.method.starts == [0, 0.25, 2 / 3]
    assert build("thaw:groups=head/0@0.25") == Thaw(groups="head/0@0.25")


def test_what_the_owner_froze_does_not_wake_up():
    model = net()
    freeze(model, "0", "1")
    before = snapshot(model)
    learner(Thaw(stages=2), model).learn(experience())
    assert moved(before, snapshot(model)) == {"3", "4", "5"}
    assert [weight.requires_grad for weight in model.parameters()] == [False] * 4 + [True] * 6


def test_heads_of_tasks_are_one_group():
    model = heads(2)
    subject = Learner(model, Thaw(stages=2), classify_by_task, optimizer=OPTIMIZERS["sgd"])
    subject.learn(of_task(1, rows(20, classes=2)))
    assert subject.method.waves == [
        [f"heads.{task}.{part}" for task in range(2) for part in ("weight", "bias")],
        ["backbone.0.weight", "backbone.0.bias"],
    ]


def test_remembering_changes_nothing_and_needs_no_steps():
    model = net()
    before = snapshot(model)
    learner(Thaw(), model).remember(experience())
    assert checkpoint.same(before, snapshot(model))


def test_runs_are_even_and_cover_all_weights_once():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    for count in range(1, 12):
        found = runs(model, count)
        assert sorted(name for run in found for name in run) == sorted(name for name, _ in model.named_parameters())
        sizes = [len(run) // 2 for run in found]
        if 1 < count <= 8:
            assert sizes[0] == 1
            assert max(sizes[1:]) - min(sizes[1:]) <= 1


@pytest.mark.parametrize("text", ["agem+thaw", "thaw+gpm", "autorgn+ogd", "gem+autorgn"])
def test_what_a_projection_guarantees_is_not_taken_apart(text):
    with pytest.raises(ValueError, match="projects the gradient as a whole"):
        build(text)
    assert build("er+thaw+autorgn")


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="until is a progress, from 0 to 1, but is 2"):
        Thaw(until=2)
    with pytest.raises(ValueError, match="stages must be a whole number of at least 1, but is 0"):
        Thaw(stages=0)
    with pytest.raises(
        ValueError,
        match=r"is in 'feature' \(did you mean 'features'\?\); its blocks are features.1, head",
    ):
        named_groups(MLP(5, (4,), 2), "feature")
    with pytest.raises(ValueError, match=r"from 0 to 1, but in '0@2' it is '2'"):
        named_groups(net(), "head/0@2")
    with pytest.raises(ValueError, match="no group learns from the start"):
        learner(Thaw(groups="head@0.5/*@0.7"), net()).learn(experience())
    data = rows()
    subject = Thaw()
    subject.begin(net(), Experience(0, data, data), classify)
    with pytest.raises(ValueError, match=r"begin with Experience\(..., steps=...\)"):
        subject(net(), data.take(torch.arange(8)), classify)
