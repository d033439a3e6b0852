"""A task has a column of its own, which reads the columns before it, and no column changes once it has ended."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import join
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain, attached
from everlearn.methods.growth import GrowHead
from everlearn.methods.independent import Independent
from everlearn.methods.naive import Naive
from everlearn.methods.pnn import PNN
from everlearn.methods.together import together
from everlearn.models import MultiHead, snapshot
from everlearn.models.columns import Laterals, lateral, noted, reading
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)
HEAVY = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


def mlp(tasks=3):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU())
    return MultiHead(body, 8, 2, tasks)


def conv(tasks=3):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 2, stride=2, padding=1, groups=2, padding_mode="reflect"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(36, 8),
        nn.ReLU(),
    )
    return MultiHead(body, 8, 2, tasks).to(memory_format=torch.channels_last)


class Tokens(nn.Module):
    """A transformer, which in eval mode and without gradients has a way around its layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(2, 8)
        self.place = nn.Parameter(torch.randn(3, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.view(-1, 3, 2)) + self.place).mean(1))


def task(index, label=None, count=24):
    label = index if label is None else label
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(index))
    rows = Columns(x=x, y=(x[:, index % 6] > 0).long(), task=torch.full((count,), label))
    return Experience(index, rows, rows, (0, 1), label)


def everything(part):
    return part.take(torch.arange(len(part)))


def learner(method=None, net=None, objective=classify_by_task, optimizer=SGD, **options):
    settings = {"epochs": 2, "batch_size": 8} | options
    return Learner(net or mlp(), method or PNN(), objective, optimizer=optimizer, **settings)


def learned(tasks, net=None, **options):
    subject = learner(net=net, **options)
    for index in range(tasks):
        subject.learn(task(index))
    return subject


# -- what a column is


def test_the_first_column_is_plain_training_bit_for_bit():
    weights = []
    for method in (Naive(), PNN()):
        torch.manual_seed(1)
        subject = learner(method, conv(), optimizer=HEAVY)
        torch.manual_seed(2)
        subject.learn(task(0))
        weights.append(snapshot(subject.model))
    assert checkpoint.same(*weights)


def test_the_third_column_is_the_equation_by_hand():
    subject = learned(3)
    method = subject.method
    w = [method.columns[k] for k in range(3)]
    u = [method.read[k] for k in range(3)]
    assert u[0] == {}
    assert u[2].keys() == {"backbone.2", "heads.2"}
    assert [tuple(u[k]["backbone.2"].shape) for k in (1, 2)] == [(8, 10), (8, 20)]
    x = everything(task(2).test)["x"]
    first, second, said = [], [], []
    for k in range(3):
        h1 = F.relu(F.linear(x, w[k]["backbone.0.weight"], w[k]["backbone.0.bias"]))
        z2 = F.linear(h1, w[k]["backbone.2.weight"], w[k]["backbone.2.bias"])
        for j in range(k):
            z2 = z2 + first[j] @ u[k]["backbone.2"][:, 10 * j : 10 * (j + 1)].T
        h2 = F.relu(z2)
        z3 = F.linear(h2, w[k][f"heads.{k}.weight"], w[k][f"heads.{k}.bias"])
        for j in range(k):
            z3 = z3 + second[j] @ u[k][f"heads.{k}"][:, 8 * j : 8 * (j + 1)].T
        first.append(h1)
        second.append(h2)
        said.append(z3)
    for k in range(3):
        question = everything(task(2).test) | {"task": torch.full((24,), k)}
        torch.testing.assert_close(subject.predict(question), said[k])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_lateral_convolution_reads_all_columns_as_one_wide_layer_does(groups):
    """By hand: group by group, the channels of the columns side by side."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, padding_mode="circular").double()
    u = torch.randn(6, 3 * 4 // groups, 3, 3, dtype=torch.float64)
    inputs = [torch.randn(5, 4, 7, 7, dtype=torch.float64) for _ in range(3)]
    answer = lateral(layer, u, inputs)
    by_hand = []
    for group in range(groups):
        mine, rows = slice(group * 4 // groups, (group + 1) * 4 // groups), slice(group * 6 // groups, None)
        wide = nn.Conv2d(12 // groups, 6 // groups, 3, 2, 1, padding_mode="circular", bias=False).double()
        wide.weight.data = u[rows][: 6 // groups]
        by_hand.append(wide(torch.cat([h[:, mine] for h in inputs], 1)))
    torch.testing.assert_close(answer, torch.cat(by_hand, 1))
    assert answer.shape == layer(inputs[0]).shape


def test_the_loss_has_the_gradient_of_the_equation():
    """Against finite differences, in W and in U."""
    subject = learned(2)
    model, method, batch = subject.model, subject.method, everything(task(2).train)
    method.begin(model, task(2), classify_by_task)
    model.zero_grad()
    method(model, batch, classify_by_task).loss.backward()
    found = [weight.grad[1, 3].item() for weight in (model.backbone[2].weight, *method.laterals.parameters())]
    model.double(), method.laterals.double()
    method.columns, method.read = ({k: as_double(w) for k, w in each.items()} for each in (method.columns, method.read))
    method.first, batch["x"] = as_double(method.first), batch["x"].double()
    for weight, grad in zip((model.backbone[2].weight, *method.laterals.parameters()), found, strict=True):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[1, 3] += step
            ends.append(method(model, batch, classify_by_task).loss.item())
            with torch.no_grad():
                weight[1, 3] -= step
        assert grad == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7)
        assert grad != 0


def as_double(weights):
    return {name: value.double() for name, value in weights.items()}


def test_columns_that_read_nothing_are_separate_nets_bit_for_bit():
    """With U = 0 and the same first weights, what is left is Independent."""
    answers = []
    for method in (PNN(redraw=False), Independent()):
        model = mlp()
        optimizer = HEAVY(model.parameters())
        for index in range(3):
            method.begin(model, task(index), classify_by_task)
            if isinstance(method, PNN):
                for u in method.laterals.parameters():
                    u.data.zero_()
            with attached(method, model, optimizer):
                for _ in range(5):
                    method(model, everything(task(index).train), classify_by_task).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            method.end(model, task(index), classify_by_task)
        answers.append([method.predict(model.eval(), everything(task(i).test), classify_by_task) for i in range(3)])
    assert checkpoint.same(*answers)


def test_columns_do_read_each_other():
    subject = learned(2)
    question = everything(task(1).test)
    before = subject.predict(question)
    subject.method.columns[0]["backbone.0.bias"] += 1
    assert not torch.equal(subject.predict(question), before)


@pytest.mark.parametrize("make", [mlp, conv])
def test_old_answers_stay_the_same_bit_for_bit_in_every_step(make):
    subject, answers = learner(Chain(GrowHead(), PNN()), make(1), optimizer=HEAVY), []
    for index in range(4):
        for step in subject.steps(task(index)):
            for old, answer in enumerate(answers):
                assert torch.equal(subject.predict(everything(task(old).test)), answer), (step, old)
        answers.append(subject.predict(everything(task(index).test)))
    kept = deepcopy(subject.method.state_dict()["1"]["columns"])
    subject.learn(task(4))
    columns = subject.method.methods[1].columns
    assert all(checkpoint.same(kept[index], columns[index]) for index in range(4))
    assert any("running_var" in name for name in kept[0]) == (make is conv)


def test_rows_of_several_tasks_in_one_batch_are_answered_each_by_its_column():
    subject = learned(3, net=mlp(4))
    mixed = join(*(everything(task(index).test) for index in range(4)))
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    answers = torch.cat([subject.predict(everything(task(index).test)) for index in range(4)])
    torch.testing.assert_close(subject.predict({n: c[order] for n, c in mixed.items()}), answers[order])


def test_a_task_that_never_came_is_answered_by_what_the_model_came_with():
    subject, fresh = learned(2), mlp().eval()
    question = everything(task(2).test)
    with torch.no_grad():
        assert torch.equal(subject.predict(question), fresh(question["x"], question["task"]))


def test_a_transformer_is_read_in_training_and_in_answers_alike():
    """The layers of the encoder, not its attention, whose weights are not those of a layer that is called."""
    subject = learned(2, net=Tokens(), objective=classify, epochs=1)
    method, question = subject.method, everything(task(1).test)
    assert {*method.laterals.weights()} == {"encoder.linear1", "encoder.linear2", "head"}
    net = subject.model.eval()
    with torch.no_grad(), reading(net, method.laterals.weights(), method._before(net, 1, question, classify)):
        h = net.embed(question["x"].view(-1, 3, 2)) + net.place
        h = net.encoder.norm1(h + net.encoder.self_attn(h, h, h)[0])
        h = net.encoder.norm2(h + net.encoder.linear2(net.encoder.linear1(h).relu()))
        by_hand = net.head(h.mean(1))
    torch.testing.assert_close(subject.predict(question), by_hand)


def test_what_a_layer_read_is_noted_as_it_was_whatever_works_in_place_later():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = self.layer(x)
            return y + x.zero_()

    x = torch.ones(2, 3)
    with torch.no_grad(), noted(model := Reused()) as inputs:
        model(x)
    assert torch.equal(inputs["layer"], torch.ones(2, 3))
    assert not x.any()


# -- how a column begins


def test_a_fresh_column_is_a_function_of_the_seed_and_its_place_alone():
    def begun(seed, noise, tasks=1):
        subject = learned(tasks, method=PNN(seed=seed))
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        subject.method.begin(subject.model, task(tasks), classify_by_task)
        assert torch.equal(torch.get_rng_state(), before)
        return snapshot(subject.model) | {f"U {n}": u.detach().clone() for n, u in subject.method.laterals.items()}

    assert checkpoint.same(begun(0, 1), begun(0, 2))
    one, two, three = begun(0, 0), begun(1, 0), begun(0, 0, tasks=2)
    for other in (two, three, snapshot(mlp())):
        assert all(not torch.equal(one[name], other[name]) for name in one if name in other)


def test_a_fresh_column_has_nothing_of_those_before_it():
    for redraw in (True, False):
        fresh = []
        for rate in (0.1, 0.01):
            subject = learned(2, net=conv(), method=PNN(redraw=redraw), optimizer=partial(torch.optim.SGD, lr=rate))
            subject.method.begin(subject.model, task(2), classify_by_task)
            fresh.append(snapshot(subject.model))
        assert checkpoint.same(*fresh)
        assert checkpoint.same(fresh[0], snapshot(conv())) is not redraw


def test_weights_of_new_columns_and_laterals_are_spread_as_those_of_new_layers():
    net = MultiHead(nn.Sequential(nn.Linear(6, 100), nn.ReLU(), nn.Linear(100, 200)), 200, 2, 3)
    subject = learned(2, net=net, epochs=1)
    subject.method.begin(net, task(2), classify_by_task)
    for weight, width in ((net.backbone[2].weight, 100), (subject.method.laterals["0"], 200)):
        assert weight.abs().max() <= 1 / width**0.5
        assert weight.std().item() == pytest.approx((3 * width) ** -0.5, rel=0.02)


def test_what_is_frozen_is_neither_drawn_anew_nor_given_laterals():
    net = mlp()
    net.backbone[2].requires_grad_(requires_grad=False)
    before = snapshot(net)
    subject = learned(2, net=net)
    assert {*subject.method.laterals.weights()} == {"heads.1"}
    for part in ("weight", "bias"):
        assert torch.equal(snapshot(net)[f"backbone.2.{part}"], before[f"backbone.2.{part}"])


def test_weights_that_no_module_can_draw_begin_as_the_model_came():
    net = Tokens()
    place = net.place.detach().clone()
    subject = learned(1, net=net, objective=classify)
    assert not torch.equal(net.place, place)
    subject.method.begin(net, task(1), classify)
    assert torch.equal(net.place, place)


def test_weights_that_are_tied_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).relu())

    net = Tied()
    subject = learned(2, net=net, objective=classify)
    assert net.second.weight is net.first.weight
    columns = subject.method.columns
    assert torch.equal(columns[1]["first.weight"], columns[1]["second.weight"])
    subject.method.begin(net, task(2), classify)
    assert not torch.equal(net.first.weight, columns[1]["first.weight"])
    assert not torch.equal(net.first.weight, columns[0]["first.weight"])


# -- time


def test_the_last_task_may_go_on_where_it_was_and_an_earlier_one_may_not():
    subject, answers = learned(2), {}
    before, u = snapshot(subject.model), [*subject.method.laterals.parameters()]
    answers = subject.predict(everything(task(0).test))
    subject.method.begin(subject.model, task(2, label=1), classify_by_task)
    assert checkpoint.same(before, snapshot(subject.model))
    assert all(a is b for a, b in zip(u, subject.method.laterals.parameters(), strict=True))
    subject.learn(task(2, label=1))
    assert not checkpoint.same(before, subject.method.columns[1])
    assert [*subject.method.columns] == [0, 1]
    assert torch.equal(subject.predict(everything(task(0).test)), answers)
    with pytest.raises(ValueError, match=r"experience 3 brings back task 0, .*use hat, or er"):
        subject.learn(task(3, label=0))


def test_the_optimizer_has_the_laterals_of_the_column_that_learns_and_no_others():
    subject = learner(net=mlp(4))
    for index in range(4):
        subject.learn(task(index))
        members = {id(weight) for group in subject.optimizer.param_groups for weight in group["params"]}
        assert members == {*map(id, subject.model.parameters()), *map(id, subject.method.parameters())}
        assert len({*subject.method.parameters()}) == (2 if index else 0)


@pytest.mark.parametrize("optimizer", [HEAVY, partial(torch.optim.Adam, lr=0.01)])
def test_a_state_goes_into_a_learner_with_more_columns_or_fewer(optimizer):
    subject = learner(net=mlp(4), optimizer=optimizer)
    states, answers = [], []
    for index in range(3):
        subject.learn(task(index))
        states.append(deepcopy(subject.state_dict()))
        answers.append(subject.predict(everything(task(0).test)))
    final = deepcopy(subject.state_dict())
    for start in (0, 1, 2):
        for other in (subject, learner(net=mlp(4), optimizer=optimizer)):  # back in time, and from nothing
            other.load_state_dict(deepcopy(states[start]))
            assert torch.equal(other.predict(everything(task(0).test)), answers[start])
            for index in range(start + 1, 3):
                other.learn(task(index))
            assert checkpoint.same(final, other.state_dict())


def test_laterals_that_a_state_lacks_go_and_those_that_it_has_come():
    laterals, state = Laterals(), Laterals()
    laterals.put({"a.b": torch.ones(2, 2), "c": torch.ones(2)})
    kept = laterals["0"]
    state.put({"d.e": torch.zeros(2, 2)})
    laterals.load_state_dict(state.state_dict())
    assert {*laterals.weights()} == {"d.e"}
    assert laterals["0"] is kept
    assert len(laterals) == 1
    assert not kept.any()
    laterals.put({})
    assert laterals.weights() == {}
    assert laterals["0"].numel() == 0


def test_a_head_that_grows_gives_old_columns_outputs_that_stay_as_they_were_drawn():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    subject = learner(Chain(GrowHead(), PNN()), net, classify)

    def wide(index, classes, label=None):
        part = task(index, label)
        return Experience(index, part.train, part.test, classes, part.task)

    subject.learn(wide(0, (0, 1)))
    question = everything(task(0).test)
    narrow = subject.predict(question)
    subject.learn(wide(1, (0, 1)))
    subject.learn(wide(2, (0, 1, 2), label=1))
    wider = subject.predict(question)
    torch.testing.assert_close(wider[:, :2], narrow)
    assert wider.shape == (24, 3)
    assert subject.method.methods[1].laterals["0"].shape == (3, 5)
    subject.learn(wide(3, (0, 1, 2)))
    assert torch.equal(subject.predict(question), wider)


def test_a_model_that_was_trained_elsewhere_may_be_the_first_column():
    subject, plain = learner(), learner(Naive())
    plain.learn(task(0))
    subject.model.load_state_dict(plain.model.state_dict())
    subject.remember(task(0))
    answer = plain.predict(everything(task(0).test))
    subject.learn(task(1))
    assert torch.equal(subject.predict(everything(task(0).test)), answer)
    with pytest.raises(ValueError, match="so it must learn it, not remember it"):
        subject.remember(task(2))


def test_what_has_no_columns_is_refused():
    part = task(0)
    with pytest.raises(ValueError, match="experience 3 has no task, but PNN has"):
        PNN().begin(mlp(), Experience(3, part.train, part.test), classify_by_task)
    rows = Columns(x=torch.zeros(4, 6), y=torch.zeros(4).long())
    with pytest.raises(ValueError, match=r'experience 3 has no task.* rows name in "task" \(by_task\)'):
        PNN().begin(mlp(), Experience(3, rows, rows, (0, 1), 0), classify_by_task)
    twice = nn.Sequential(layer := nn.Linear(6, 6), nn.ReLU(), layer, nn.Linear(6, 2))
    subject = learned(1, net=twice, objective=classify)
    with pytest.raises(ValueError, match=r"'0' is called more than once for one batch.*a layer of its own"):
        subject.learn(task(1))


def test_only_a_growing_head_may_stand_beside_it():
    together(["grow", "pnn"])
    for other in ("er", "ewc", "lwf"):
        with pytest.raises(ValueError, match=f"nothing for {other} to hold or repeat; use pnn alone"):
            together([other, "pnn"])
