"""A step as one graph: the same numbers as the plain step, or a reason why not."""

import copy
import random
from functools import partial

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.methods import DER, Hedge, Replay
from everlearn.models import fused, grow, snapshot
from everlearn.models.exits import OnlineMLP
from everlearn.objective import classify, regress
from everlearn.online.making import make_online
from everlearn.randomness import global_state
from everlearn.streams.feed import Record

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
}


def net(outputs=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))


def rows(step, count=4, classes=3):
    random_ = torch.Generator().manual_seed(step)
    x = torch.randn(count, 5, generator=random_)
    return {"x": x, "y": (x[:, :classes].argmax(1))}


def learner(model=None, method=None, objective=classify, optimizer="sgd", fused=True, **options):
    model = net() if model is None else model
    return Learner(model, method, objective, optimizer=OPTIMIZERS[optimizer], fused=fused, **options)


def near(first, second):
    for name, value in snapshot(first.model).items():
        torch.testing.assert_close(value, snapshot(second.model)[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_hundred_steps_end_where_the_plain_ones_do(optimizer):
    plain, quick = (learner(optimizer=optimizer, fused=f) for f in (False, True))
    for step in range(200):
        batch = rows(step, 1 + step % 2)
        torch.testing.assert_close(quick.predict(batch), plain.predict(batch), rtol=1e-5, atol=1e-6)
        one, other = quick.observe(batch), plain.observe(batch)
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-6)
    near(plain, quick)
    assert quick.number == plain.number == 200


def test_numbers_are_learned_like_classes():
    plain, quick = (learner(net(1), objective=regress, fused=f) for f in (False, True))
    for step in range(50):
        batch = {"x": rows(step)["x"], "y": rows(step)["x"].sum(1)}
        plain.observe(batch)
        quick.observe(batch)
    near(plain, quick)


class Tied(nn.Module):
    """Two layers with one weight, a residual way, a norm, a buffer, and a weight that is never used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.norm = nn.Linear(5, 5), nn.Linear(5, 5), nn.LayerNorm(5)
        self.second.weight = self.first.weight
        self.idle = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.full((5,), 0.5))

    def forward(self, x):
        return self.norm(x + self.second(self.first(x).relu())) + self.shift


def test_weights_may_be_shared_unused_or_frozen():
    models = [Tied(), Tied()]
    for model in models:
        model.first.bias.requires_grad_(requires_grad=False)
    plain, quick = (learner(model, optimizer="adamw", fused=f) for model, f in zip(models, (False, True), strict=True))
    for step in range(50):
        plain.observe(rows(step))
        quick.observe(rows(step))
    near(plain, quick)
    assert torch.equal(quick.model.idle, torch.ones(2))
    assert quick.model.second.weight is quick.model.first.weight
    assert torch.equal(quick.model.first.bias, Tied().first.bias)


def test_a_weight_frozen_or_a_buffer_changed_by_hand_counts_at_once():
    plain, quick = (learner(Tied(), fused=f) for f in (False, True))
    for subject in (plain, quick):
        subject.observe(rows(0))
        subject.model.shift.fill_(-2.0)
        subject.model.norm.weight.requires_grad_(requires_grad=False)
        subject.observe(rows(1))
        subject.model.shift = torch.arange(5.0)
        subject.observe(rows(2))
    near(plain, quick)
    torch.testing.assert_close(plain.predict(rows(3)), quick.predict(rows(3)))


def test_methods_that_choose_rows_are_fused_too():
    plain, quick = (learner(method=Replay(Memory(20), count=4), fused=f) for f in (False, True))
    for step in range(60):
        plain.observe(rows(step))
        quick.observe(rows(step))
    near(plain, quick)
    assert torch.equal(plain.method.memory.rows()["id"], quick.method.memory.rows()["id"])


def test_rows_without_labels_are_no_step():
    plain, quick = (learner(fused=f) for f in (False, True))
    for subject in (plain, quick):
        subject.observe(rows(0) | {"y": torch.tensor([0, -100, 1, -100])})
        before = snapshot(subject.model)
        assert subject.observe({"x": rows(1)["x"]}).loss is None
        assert subject.observe(rows(1) | {"y": torch.full((4,), -100)}).loss is None
        assert checkpoint.same(before, snapshot(subject.model))
    near(plain, quick)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_goes_on_exactly_after_a_checkpoint(optimizer, tmp_path):
    whole, first, second = (learner(net(seed=seed), optimizer=optimizer) for seed in (0, 0, 7))
    for step in range(30):
        whole.observe(rows(step))
    for step in range(11):
        first.observe(rows(step))
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    for step in range(11, 30):
        second.observe(rows(step))
    assert checkpoint.same(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_growth_keeps_what_the_optimizer_knows(optimizer, tmp_path):
    plain, quick = (learner(net(2), optimizer=optimizer, fused=f) for f in (False, True))
    for subject in (plain, quick):
        for step in range(20):
            subject.observe(rows(step, classes=2))
        with subject.changing() as model:
            grow(model, 3)
        for step in range(20, 40):
            subject.observe(rows(step))
    near(plain, quick)
    checkpoint.save(quick.state_dict(), tmp_path / "c")
    again = learner(net(2), optimizer=optimizer)
    again.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert torch.equal(again.predict(rows(0)), quick.predict(rows(0)))


def test_to_ask_changes_nothing():
    subject = learner(Tied(), optimizer="adam")
    subject.observe(rows(0))
    before = copy.deepcopy(subject.state_dict())
    modes = [module.training for module in subject.model.modules()]
    gradients = [None if weight.grad is None else weight.grad.clone() for weight in subject.model.parameters()]
    state = global_state(torch.device("cpu"))
    subject.predict(rows(1, 9))
    subject.predict(rows(1, 9))
    assert checkpoint.same(before, subject.state_dict())
    assert modes == [module.training for module in subject.model.modules()]
    assert checkpoint.same(gradients, [weight.grad for weight in subject.model.parameters()])
    assert checkpoint.same(state, global_state(torch.device("cpu")))


def test_a_refused_batch_leaves_everything_as_it_was():
    subject = learner(optimizer="momentum")
    subject.observe(rows(0))
    before = copy.deepcopy(subject.state_dict())
    spoiled = rows(1)
    spoiled["x"][2, 1] = torch.nan
    for batch in (spoiled, rows(1) | {"y": torch.tensor([0, 1, 2, 9])}, {"x": torch.ones(4, 6), "y": rows(1)["y"]}):
        with pytest.raises((ValueError, RuntimeError)):
            subject.observe(batch)
        assert checkpoint.same(before, subject.state_dict())
    with pytest.raises(ValueError, match="labels go from 0 to 9"):
        subject.observe(rows(1) | {"y": torch.tensor([0, 1, 2, 9])})
    assert subject.observe(rows(1)).loss is not None


def test_a_copy_goes_on_by_itself():
    quick = learner()
    for step in range(3):
        quick.predict(rows(step))
        quick.observe(rows(step))
    twin, before = copy.deepcopy(quick), snapshot(quick.model)
    quick.observe(rows(3))
    assert checkpoint.same(snapshot(twin.model), before)
    twin.observe(rows(3))
    assert checkpoint.same(snapshot(twin.model), snapshot(quick.model))
    assert twin.predict(rows(4)).equal(quick.predict(rows(4)))


def test_batches_of_many_sizes_keep_a_bounded_number_of_graphs(monkeypatch):
    monkeypatch.setattr(fused, "MOST", 3)
    subject = learner(nn.Linear(5, 3))
    for count in range(1, 7):
        subject.observe(rows(count, count))
    assert len(subject._graphs._graphs) == 3


class Drawing(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (1 + random.random())


class Deciding(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Hiding(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.hidden = torch.ones(3)

    def forward(self, x):
        return super().forward(x) * self.hidden


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.1)), "draws random numbers"),
        (lambda: Drawing(5, 3), "draws random numbers"),
        (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), "changes 0.running_mean"),
        (lambda: Deciding(5, 3), "values decide what is computed"),
        (lambda: Hiding(5, 3), "neither weight nor buffer"),
    ],
)
def test_what_cannot_be_the_same_is_refused_with_a_reason(model, reason):
    subject = learner(model())
    before = copy.deepcopy(subject.model.state_dict())
    state = global_state(torch.device("cpu"))
    with pytest.raises(ValueError, match=f"cannot be fused: .*{reason}"):
        subject.observe(rows(0))
    assert checkpoint.same(dict(before), dict(subject.model.state_dict()))
    assert checkpoint.same(state, global_state(torch.device("cpu")))


def test_a_method_that_makes_another_loss_is_refused():
    subject = learner(method=DER(Memory(10), count=2))
    subject.observe(rows(0))
    with pytest.raises(ValueError, match="makes another loss"):
        subject.observe(rows(1))


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16"}, {"accumulate": 2}])
def test_settings_that_one_graph_cannot_hold_are_refused(options):
    with pytest.raises(ValueError, match="fused=True"):
        learner(**options)


def test_whoever_watches_the_optimizer_sees_each_step():
    subject, seen = learner(), []
    subject.observe(rows(0))
    subject.optimizer.register_step_post_hook(lambda *_: seen.append(True))
    subject.observe(rows(1))
    assert seen == [True]


def test_it_serves_a_stream_that_grows():
    plain, quick = (make_online(model="mlp:hidden=8", optimizer="sgd:lr=0.1", fused=f) for f in (False, True))
    for step in range(40):
        fields = {"a": step % 3, "b": step % 5} | ({"c": step % 7} if step > 20 else {})
        record, label = Record(str(step), fields), f"class {step % (2 if step < 25 else 3)}"
        assert plain.predict([record])[0].answer == quick.predict([record])[0].answer
        assert quick.learn([record], [label]) == pytest.approx(plain.learn([record], [label]), rel=1e-5)
    near(plain.learner, quick.learner)


def spied(monkeypatch):
    """How many steps were taken as one graph."""
    taken, step = [], fused.Fused.step

    def counted(graphs, *given, **named):
        output = step(graphs, *given, **named)
        taken.extend([] if output is None else [output])
        return output

    monkeypatch.setattr(fused.Fused, "step", counted)
    return taken


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_but_the_first_step_of_a_shape_are_one_graph(optimizer, monkeypatch):
    subject = learner(optimizer=optimizer)
    taken = spied(monkeypatch)
    for step in range(10):
        subject.observe(rows(step, 1 + step % 2))
    assert len(taken) == 8
    assert subject.number == 10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_graph_of_a_step_ends_where_its_parts_do(optimizer, monkeypatch):
    whole, parts = learner(Tied(), optimizer=optimizer), learner(Tied(), optimizer=optimizer)
    for step in range(50):
        one = whole.observe(rows(step, 1 + step % 3))
        with monkeypatch.context() as patched:
            patched.setattr(parts, "_at_once", lambda *_, **__: None)
            other = parts.observe(rows(step, 1 + step % 3))
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.logits, other.logits)
    assert checkpoint.same(whole.state_dict(), parts.state_dict())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("quick", [False, True])
def test_to_test_then_train_is_to_predict_and_then_to_observe(optimizer, quick):
    joint, apart = (learner(Tied(), optimizer=optimizer, fused=quick) for _ in range(2))
    for step in range(30):
        batch = rows(step, 1 + step % 2)
        output = joint.test_then_train(batch)
        assert torch.equal(output.logits, apart.predict(batch))
        assert torch.equal(output.loss, apart.observe(batch).loss)
    assert checkpoint.same(joint.state_dict(), apart.state_dict())


class Moody(nn.Linear):
    """It answers otherwise in train mode."""

    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


@pytest.mark.parametrize("quick", [False, True])
def test_a_model_that_trains_otherwise_is_asked_in_eval_mode(quick):
    subject, apart = (learner(Moody(5, 3), fused=quick) for _ in range(2))
    apart.model.load_state_dict(subject.model.state_dict())
    for step in range(5):
        answer = subject.test_then_train(rows(step)).logits
        assert torch.equal(answer, apart.predict(rows(step)))
        assert not torch.allclose(answer, apart.observe(rows(step)).logits)


def test_methods_with_rows_of_their_own_may_be_tested_and_trained_too():
    joint, apart = (learner(method=Replay(Memory(20), count=4)) for _ in range(2))
    for step in range(20):
        assert torch.equal(joint.test_then_train(rows(step)).logits, apart.predict(rows(step)))
        apart.observe(rows(step))
    assert checkpoint.same(joint.state_dict(), apart.state_dict())


SPOILED = {
    "nan": (lambda batch: batch["x"].__setitem__((2, 1), torch.nan), "column 'x' of row 2"),
    "large": (lambda batch: batch["x"].__setitem__((1, 0), 1e16), "column 'x' of row 1"),
    "label": (lambda batch: batch.update(y=torch.tensor([0, 1, 2, 9])), "labels go from 0 to 9"),
    "kind": (lambda batch: batch.update(y=batch["y"].int()), "must be int64"),
    "list": (lambda batch: batch.update(text=["a"] * 4), "takes tensors"),
    "length": (lambda batch: batch.update(y=batch["y"][:3]), "must have one length"),
}


@pytest.mark.parametrize("verb", ["observe", "test_then_train"])
@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_one_graph_refuses_leaves_everything_as_it_was(optimizer, spoil, verb, monkeypatch):
    subject, other = learner(optimizer=optimizer), learner(optimizer=optimizer)
    for each in (subject, other):
        each.observe(rows(0)), each.observe(rows(1))
    before, batch = copy.deepcopy(subject.state_dict()), rows(2)
    change, reason = SPOILED[spoil]
    change(batch)
    taken = spied(monkeypatch)
    with pytest.raises((ValueError, TypeError), match=reason):
        getattr(subject, verb)(batch)
    assert checkpoint.same(before, subject.state_dict())
    assert not taken
    subject.observe(rows(3)), other.observe(rows(3))
    assert len(taken) == 2
    assert checkpoint.same(subject.state_dict(), other.state_dict())


def test_a_loss_that_overflows_moves_nothing():
    def steep(model, batch):
        output = classify(model, batch)
        return output if output.loss is None else output._replace(loss=output.loss * batch["scale"].prod())

    subject = learner(objective=steep)
    fine = torch.ones(4)
    subject.observe(rows(0) | {"scale": fine}), subject.observe(rows(1) | {"scale": fine})
    before = copy.deepcopy(subject.state_dict())
    with pytest.raises(ValueError, match="the loss is inf"):
        subject.observe(rows(2) | {"scale": torch.full((4,), 1e14)})
    assert checkpoint.same(before, subject.state_dict())


def test_the_rate_is_read_at_each_step(monkeypatch):
    plain, quick = (learner(fused=f) for f in (False, True))
    taken = spied(monkeypatch)
    for step in range(20):
        for subject in (plain, quick):
            subject.observe(rows(step))
            subject.optimizer.param_groups[0]["lr"] = 0.5 / (1 + step)
    near(plain, quick)
    assert len(taken) == 19
    before = snapshot(quick.model)
    quick.optimizer.param_groups[0]["lr"] = 0.0
    quick.observe(rows(30))
    assert checkpoint.same(before, snapshot(quick.model))


def test_an_optimizer_that_becomes_another_one_is_followed(monkeypatch):
    plain, quick = (learner(fused=f) for f in (False, True))
    taken = spied(monkeypatch)
    for step in range(30):
        for subject in (plain, quick):
            subject.observe(rows(step))
            group = subject.optimizer.param_groups[0]
            if step == 10:
                group["momentum"] = 0.9
            if step == 20:  # two weights are left alone
                group["momentum"], group["params"][:] = 0, group["params"][:2]
                last = subject.model[4].weight.clone()
        if step > 20:
            assert torch.equal(quick.model[4].weight, last)
    near(plain, quick)
    assert len(taken) == 29


def test_gradients_that_lie_in_one_place_are_not_clipped_twice():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(1, 3))

        def forward(self, x):
            return x[:, :3] + self.one + self.two

    for options in ({}, {"clip": 0.01}):
        plain, quick = (learner(Both(), fused=f, **options) for f in (False, True))
        for step in range(5):
            plain.observe(rows(step, 1))
            quick.observe(rows(step, 1))
        near(plain, quick)


@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_exits_are_hedged_as_one_graph(rule, tmp_path):
    def make(quick, seed=0):
        torch.manual_seed(seed)
        return learner(OnlineMLP(5, 3, layers=4, width=6), Hedge(rule=rule), fused=quick)

    plain, quick = make(quick=False), make(quick=True)
    for step in range(60):
        batch = rows(step, 1 + step % 2)
        torch.testing.assert_close(quick.predict(batch), plain.predict(batch), rtol=1e-4, atol=1e-5)
        one, other = quick.observe(batch), plain.observe(batch)
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    for name, value in snapshot(plain.model).items():
        torch.testing.assert_close(snapshot(quick.model)[name], value, rtol=1e-4, atol=1e-5)
    assert quick.model.alpha.std() > 0
    before = copy.deepcopy(quick.state_dict())
    with pytest.raises(ValueError, match="labels go from 0 to 9"):
        quick.observe(rows(1) | {"y": torch.tensor([0, 1, 2, 9])})
    assert quick.observe(rows(1) | {"y": torch.full((4,), -100)}).loss is None
    assert checkpoint.same(before["model"], quick.state_dict()["model"])
    checkpoint.save(quick.state_dict(), tmp_path / "c")
    again = make(quick=True, seed=1)
    again.load_state_dict(checkpoint.load(tmp_path / "c"))
    for subject in (quick, again):
        subject.observe(rows(70)), subject.observe(rows(71))
    assert checkpoint.same(quick.state_dict(), again.state_dict())


@pytest.mark.parametrize("case", ["plain", "sparse", "double", "bfloat16", "groups", "tensor", "momentum"])
def test_a_step_of_descent_is_that_of_torch_bit_by_bit(case):
    def run(take):
        torch.manual_seed(0)
        table, layer = nn.Embedding(10, 4, sparse=case == "sparse"), nn.Linear(4, 3)
        if case in ("double", "bfloat16"):
            table.to(getattr(torch, {"double": "float64"}.get(case, case))), layer.to(table.weight.dtype)
        weights = [*table.parameters(), *layer.parameters()]
        groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.01}] if case == "groups" else weights
        rate = torch.tensor(0.02) if case == "tensor" else 0.02
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9 if case == "momentum" else 0)
        for row in range(10):
            optimizer.zero_grad()
            layer(table(torch.tensor([row, 1, 1]))).pow(2).sum().backward()
            take(optimizer)
        return [weight.detach() for weight in weights], optimizer.state_dict()

    assert checkpoint.same(list(run(fused.step)), list(run(lambda optimizer: optimizer.step())))
    assert all(weight.isfinite().all() for weight in run(fused.step)[0])
