"""The loop: what it may touch, where it stops, how it goes on, and what it refuses."""

import copy
import math
from functools import partial

import pytest
import torch
import zoo
from torch import nn

from everlearn import checkpoint
from everlearn.border import NonFiniteError
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method, Stateful
from everlearn.methods import DER, EWC, SCR, SI, GrowHead, LwF, Naive, Replay
from everlearn.methods.composition import build
from everlearn.models import grow, snapshot
from everlearn.objective import Output, classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)


def net(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs))


def plain_net(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, outputs))


def rows(count=24, seed=0, classes=4):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=random)
    return Columns(x=x, y=torch.randint(classes, (count,), generator=random))


def experience(index=0, count=24, classes=4):
    data = rows(count, index, classes)
    return Experience(index, data, data, tuple(range(classes)))


def batch(count=8, seed=100):
    return rows(count, seed).take(torch.arange(count))


def learner(method=None, model=None, **options):
    model = net() if model is None else model
    torch.manual_seed(1)
    return Learner(model, method, **({"optimizer": SGD, "batch_size": 8, "epochs": 2} | options))


def members(subject):
    return [[id(weight) for weight in group["params"]] for group in subject.optimizer.param_groups]


class TestWhatItLeavesAlone:
    def test_a_batch_norm_frozen_in_a_model_that_trains_stays_frozen(self):
        model = net()
        model(torch.randn(50, 5) + 2)
        model[1].eval()
        before = {name: value.clone() for name, value in model[1].named_buffers()}
        subject = learner(model=model)
        modes = []
        for _ in subject.steps(experience()):
            modes.append([module.training for module in model])
            subject.evaluate(rows())
            model.eval()  # a user who evaluates by hand
        assert modes == [[True, False, True, True, True]] * 6
        assert all(torch.equal(before[name], value) for name, value in model[1].named_buffers())

    def test_a_model_in_eval_mode_was_not_frozen_on_purpose(self):
        model = net().eval()
        subject = learner(model=model)
        before = model[1].running_mean.clone()
        for _ in subject.steps(experience()):
            assert all(module.training for module in model)
        assert not torch.equal(before, model[1].running_mean)

    @pytest.mark.parametrize("make", [SGD, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)])
    @pytest.mark.parametrize("method", [Naive, LwF, SI, EWC, lambda: Replay(Memory(10), count=4)])
    def test_what_the_owner_left_out_of_the_optimizer_never_moves(self, method, make):
        model = plain_net()
        body = copy.deepcopy(model[0].state_dict())
        subject = learner(method(), model, optimizer=lambda weights: make(weights[2:]))
        subject.learn(experience(0))
        subject.learn(experience(1))
        assert all(torch.equal(body[name], value) for name, value in model[0].state_dict().items())
        assert len(subject.optimizer.param_groups[0]["params"]) == 2

    def test_a_frozen_parameter_never_moves_and_is_not_in_the_optimizer(self):
        model = plain_net()
        model[0].weight.requires_grad_(requires_grad=False)
        before = model[0].weight.clone()
        subject = learner(model=model, optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1))
        subject.learn(experience())
        assert torch.equal(before, model[0].weight)
        assert id(model[0].weight) not in members(subject)[0]

    def test_growth_keeps_out_what_was_out_and_in_what_was_in(self):
        model = plain_net(2)
        subject = learner(GrowHead(), model, optimizer=lambda weights: SGD(weights[1:]))
        body = model[0].weight.clone()
        for index, classes in enumerate((2, 3, 4)):
            subject.learn(experience(index, classes=classes))
            assert members(subject) == [[id(model[0].bias), id(model[2].weight), id(model[2].bias)]]
        assert torch.equal(body, model[0].weight)

    def test_an_owners_choice_survives_a_checkpoint_after_growth(self):
        def made():
            return learner(GrowHead(), plain_net(2), optimizer=lambda weights: SGD(weights[1:]))

        first, second = made(), made()
        first.learn(experience(0, classes=2))
        first.learn(experience(1, classes=4))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        model = second.model
        assert members(second) == [[id(model[0].bias), id(model[2].weight), id(model[2].bias)]]

    @pytest.mark.parametrize("make", [SGD, ADAM])
    def test_the_moments_of_old_outputs_survive_growth(self, make):
        subject = learner(GrowHead(), plain_net(2), optimizer=make)
        subject.learn(experience(0, classes=2))
        old = subject.model[2].weight
        state = {k: v.clone() for k, v in subject.optimizer.state[old].items() if isinstance(v, torch.Tensor)}
        moments = {name: value for name, value in state.items() if value.dim() == 2}
        subject._begin(experience(1, classes=4), 6)
        new = subject.model[2].weight
        assert new.shape == (4, 8)
        assert old not in subject.optimizer.state
        assert moments
        for name, value in moments.items():
            grown = subject.optimizer.state[new][name]
            assert torch.equal(grown[:2], value)
            assert not grown[2:].any()

    def test_a_fresh_optimizer_forgets_its_moments_between_experiences(self):
        subject = learner(model=plain_net(), fresh_optimizer=True)
        subject.learn(experience(0))
        first = subject.optimizer
        subject.learn(experience(1))
        assert subject.optimizer is not first

    def test_a_step_draws_from_no_generator_but_for_dropout(self):
        subject = learner(Chain(Replay(Memory(10), count=4), EWC(), LwF()), plain_net())
        before = torch.get_rng_state()
        subject.learn(experience(0))
        subject.learn(experience(1))
        subject.observe(batch())
        assert torch.equal(before, torch.get_rng_state())

    def test_the_model_stays_where_it_is(self):
        model = net()
        assert learner(model=model).model is model
        assert learner(model=model).device == torch.device("cpu")
        assert learner(model=nn.Flatten()).device == torch.device("cpu")


class TestWhereItIs:
    def test_a_step_says_where_it_is(self):
        subject = learner()
        steps = [(step.epoch, step.number, step.place) for step in subject.steps(experience())]
        assert steps == [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 4, 4), (1, 5, 5), (1, 6, 6)]
        step = next(subject.steps(experience(1, count=40)))
        assert (step.experience, step.number, step.place, step.of) == (1, 7, 1, 10)

    def test_leaving_the_loop_pauses(self):
        whole, parts = learner(), learner()
        torch.manual_seed(5)
        whole.learn(experience())
        torch.manual_seed(5)
        taken = []
        while not taken or parts.begun:
            for step in parts.steps(experience()):
                taken.append(step.place)
                break
        assert taken == [1, 2, 3, 4, 5, 6]
        assert checkpoint.same(whole.state_dict(), parts.state_dict())

    def test_the_wrong_experience_in_the_middle_is_an_error(self):
        subject = learner()
        next(subject.steps(experience(0)))
        with pytest.raises(ValueError, match=r"in the middle of experience 0, but was given experience 1"):
            subject.learn(experience(1))
        with pytest.raises(ValueError, match=r"in the middle of experience 0"):
            subject.remember(experience(1))
        subject.learn(experience(0))
        subject.learn(experience(1))
        assert subject.experience == 2

    def test_other_rows_in_the_middle_are_an_error(self):
        subject = learner()
        next(subject.steps(experience(0)))
        with pytest.raises(ValueError, match=r"began with 6 steps, but the 40 rows given now make 10"):
            subject.learn(experience(0, count=40))

    def test_stop_ends_the_experience_after_this_step_as_if_its_data_had_run_out(self):
        ended = []

        class Watch(Method):
            def end(self, model, experience, objective):
                ended.append(experience.index)

        subject = learner(Watch())
        for step in subject.steps(experience(0)):
            if step.place == 2:
                subject.stop()
        assert step.place == 2
        assert ended == [0]
        assert (subject.experience, subject.epoch, subject.position) == (1, 0, 0)
        assert not subject.begun
        assert len(list(subject.steps(experience(1)))) == 6

    def test_stopping_and_leaving_the_loop_starts_the_next_experience_from_its_beginning(self):
        subject = learner()
        for _ in subject.steps(experience(0)):
            subject.stop()
            break
        assert list(subject.steps(experience(0))) == []
        assert subject.experience == 1
        assert [step.place for step in subject.steps(experience(1))] == [1, 2, 3, 4, 5, 6]

    def test_stop_between_two_experiences_does_nothing(self):
        subject = learner()
        subject.stop()
        assert len(list(subject.steps(experience(0)))) == 6
        subject.stop()
        assert len(list(subject.steps(experience(1)))) == 6

    def test_a_stop_is_part_of_a_checkpoint(self):
        first, second = learner(), learner()
        for _ in first.steps(experience(0)):
            first.stop()
            break
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert list(second.steps(experience(0))) == []
        assert second.experience == 1

    def test_drop_last_leaves_out_the_last_small_batch_of_each_epoch(self):
        sizes = []

        class Watch(Method):
            def loss(self, model, batch, objective, rest):
                sizes.append(len(batch["y"]))
                return rest(model, batch)

        learner(Watch()).learn(experience(count=20))
        learner(Watch(), drop_last=True).learn(experience(count=20))
        assert sizes == [8, 8, 4] * 2 + [8, 8] * 2

    def test_every_row_comes_once_in_each_epoch_in_another_order(self):
        seen = []

        class Watch(Method):
            def loss(self, model, batch, objective, rest):
                seen.extend(batch["id"].tolist())
                return rest(model, batch)

        subject = learner(Watch())
        subject.learn(experience(0))
        subject.learn(experience(3))
        epochs = [seen[i : i + 24] for i in range(0, 96, 24)]
        assert [sorted(e) for e in epochs] == [list(range(24))] * 2 + [list(range(3 << 40, (3 << 40) + 24))] * 2
        assert epochs[0] != epochs[1]

    def test_a_schedule_starts_again_with_each_experience(self):
        made = []

        def scheduler(optimizer, steps):
            made.append(steps)
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        subject = learner(GrowHead(), plain_net(2), scheduler=scheduler)
        rates = []
        for index, count in ((0, 24), (1, 40)):
            steps = subject.steps(experience(index, count=count, classes=2 + index))
            rates += [subject.optimizer.param_groups[0]["lr"] for _ in steps]
        assert made == [6, 10]
        expected = [0.05 * (1 + math.cos(k * math.pi / n)) for n in (6, 10) for k in range(1, n + 1)]
        assert rates == pytest.approx(expected, abs=1e-7)

    def test_accumulated_pieces_make_one_step_of_the_whole_batch(self):
        whole, pieces = (learner(model=plain_net(), accumulate=a) for a in (1, 3))
        first, second = whole.observe(batch()), pieces.observe(batch())
        torch.testing.assert_close(snapshot(whole.model), snapshot(pieces.model))
        torch.testing.assert_close(first.loss, second.loss)
        torch.testing.assert_close(first.logits, second.logits)
        assert whole.number == pieces.number == 1

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_the_output_of_a_step_is_about_the_rows_that_came(self, accumulate):
        method = Replay(Memory(50), count=6)
        subject = learner(method, plain_net(), accumulate=accumulate)
        subject.observe(batch(seed=1))
        new = batch(seed=2)
        with torch.no_grad():
            expected = subject.model(new["x"])
        output = subject.observe(new)
        torch.testing.assert_close(output.logits, expected)
        assert not output.logits.requires_grad
        assert not output.loss.requires_grad
        assert 0 < output.loss < 5

    def test_clip_bounds_the_norm_of_the_gradient(self):
        subject = learner(model=plain_net(), clip=1e-3, optimizer=partial(torch.optim.SGD, lr=1.0))
        before = snapshot(subject.model)
        subject.observe(batch())
        moved = sum((value - before[name]).square().sum() for name, value in snapshot(subject.model).items())
        assert moved.sqrt().item() == pytest.approx(1e-3, rel=1e-3)


class TestStreamsWithoutBorders:
    def test_observe_learns_from_each_batch(self):
        subject = learner(model=plain_net())
        new = batch()
        losses = [subject.observe(new).loss.item() for _ in range(30)]
        assert losses[-1] < losses[0] / 2
        assert subject.number == 30
        assert not subject.begun

    @pytest.mark.parametrize("method", zoo.METHODS)
    def test_every_method_takes_a_stream_without_borders(self, method):
        subject = zoo.learner(method)
        if method == "scr":  # there is no experience whose beginning could tell it what the head sees
            subject = Learner(subject.model, SCR(Memory(100), count=16, width=32), optimizer=SGD)
        train, _ = zoo.digits()
        for k in range(5):
            output = subject.observe(train.take(torch.arange(16 * k, 16 * k + 16)))
            assert output.loss is None if zoo.alone(method) else output.loss.isfinite()

    def test_it_goes_on_exactly_after_a_checkpoint(self):
        whole, first, second = (learner(DER(Memory(20), count=4), model=net()) for _ in range(3))
        torch.manual_seed(5)
        for k in range(6):
            whole.observe(batch(seed=k))
        torch.manual_seed(5)
        for k in range(3):
            first.observe(batch(seed=k))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for k in range(3, 6):
            second.observe(batch(seed=k))
        assert checkpoint.same(whole.state_dict(), second.state_dict())

    def test_a_batch_without_labels_changes_nothing_but_the_count_of_steps(self):
        subject = learner(model=net())
        subject.observe(batch())
        before = {n: v.clone() for n, v in subject.model.named_parameters()}
        for missing in ({"x": batch()["x"]}, batch() | {"y": torch.full((8,), -100)}):
            output = subject.observe(missing)
            assert output.loss is None
            assert output.logits.shape == (8, 4)
        assert all(torch.equal(before[name], value) for name, value in subject.model.named_parameters())
        assert subject.number == 3


class TestRemember:
    def remembered(self, method, model=None):
        subject = learner(method, net() if model is None else model)
        subject.model(torch.randn(30, 5) + 1)
        before = (copy.deepcopy(subject.model.state_dict()), [m.training for m in subject.model.modules()])
        weights, generator = list(map(id, subject.model.parameters())), torch.get_rng_state()
        subject.remember(experience(0))
        assert checkpoint.same(dict(before[0]), dict(subject.model.state_dict()))
        assert before[1] == [m.training for m in subject.model.modules()]
        assert weights == list(map(id, subject.model.parameters()))
        assert torch.equal(generator, torch.get_rng_state())
        assert all(weight.grad is None for weight in subject.model.parameters())
        assert (subject.number, subject.experience, subject.begun) == (0, 1, False)
        return subject

    def test_it_fills_a_memory_with_each_row_once(self):
        memory = self.remembered(Replay(Memory(100))).method.memory
        assert memory.seen == 24
        assert sorted(memory.ids.tolist()) == list(range(24))

    def test_it_notes_the_answers_of_the_model_in_eval_mode(self):
        subject = self.remembered(DER(Memory(100)))
        kept = subject.method.memory.rows()
        torch.testing.assert_close(kept["logits"], subject.predict({"x": kept["x"]}))

    def test_it_estimates_importance(self):
        subject = self.remembered(EWC())
        assert all(value.max() > 0 for name, value in subject.method.importance.items() if name != "0.bias")
        assert torch.equal(subject.method.anchor["4.weight"], subject.model[4].weight)

    def test_it_takes_a_teacher(self):
        subject = self.remembered(LwF())
        assert checkpoint.same(subject.method.teacher, snapshot(subject.model))
        assert subject.method.classes == [0, 1, 2, 3]

    def test_it_works_for_a_chain_and_then_the_next_experience_is_held(self):
        subject = self.remembered(Chain(GrowHead(), Replay(Memory(20), count=4), LwF(), EWC(lambda_=10.0)))
        subject.learn(experience(1, classes=6))
        assert subject.experience == 2
        assert subject.predict(batch()).shape == (8, 6)

    def test_the_weights_are_frozen_before_and_after(self):
        model = net()
        model[0].requires_grad_(requires_grad=False)
        assert "0.weight" not in self.remembered(EWC(), model).method.importance


class TestSaving:
    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("epochs", 3), ("batch_size", 4), ("seed", 5), ("precision", "bf16"), ("accumulate", 2), ("clip", 1.0),
            ("fresh_optimizer", True), ("drop_last", True),
        ],
    )  # fmt: skip
    def test_other_settings_are_an_error_that_names_them(self, name, other):
        state = learner().state_dict()
        with pytest.raises(ValueError, match=rf"other settings.*{name}: .* then, {other!r} now"):
            learner(**{name: other}).load_state_dict(state)

    def test_going_on_from_a_state_leaves_it_as_it_is(self, tmp_path):
        first, second = (learner(Replay(Memory(10), 4)) for _ in range(2))
        first.learn(experience())
        state = first.state_dict()
        checkpoint.save(state, tmp_path / "before")
        second.load_state_dict(state)
        second.learn(experience(1))
        checkpoint.save(state, tmp_path / "after")
        assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()

    def test_a_state_of_another_method_is_an_error(self):
        with pytest.raises(ValueError, match=r"not a state of LwF"):
            learner(LwF()).load_state_dict(learner(EWC()).state_dict())

    def test_a_model_that_is_no_longer_finite_is_never_saved(self):
        subject = learner()
        subject.model[1].running_mean[3] = float("inf")
        with pytest.raises(NonFiniteError, match=r"the weight '1.running_mean' holds 1 values that are not finite"):
            subject.state_dict()

    @pytest.mark.parametrize(
        ("method", "kind"),
        [
            (method, kind)
            for kind in ({"model": "conv", "growing": True}, {"model": "transformer", "growing": True}, {"tasks": True})
            for method in (sorted(zoo.TOKENS) if kind.get("model") == "transformer" else zoo.METHODS)
            if zoo.suits(method, tasks="tasks" in kind, model=kind.get("model", "mlp"))
        ],
    )
    def test_everything_that_changes_in_training_is_in_the_state(self, method, kind):
        """Two learners that have nothing in common but the state are the same, attribute by attribute."""
        stream = (zoo.task_stream if kind.get("tasks") else zoo.stream)(True, rows=260)
        scheduler = partial(torch.optim.lr_scheduler.StepLR, gamma=0.9)
        first, second = (
            zoo.learner(method, **kind, scheduler=lambda optimizer, steps: scheduler(optimizer, max(1, steps // 3)))
            for _ in range(2)
        )
        first.learn(stream[0])
        going = first.steps(stream[1])
        for _ in range(2):
            next(going)
        before = copy.deepcopy(_plain(first))
        next(going)
        changed = {name for name, value in _plain(first).items() if not _equal(value, before.get(name))}
        assert {"learner.number", "learner.position"} <= changed
        assert any(name.startswith("learner.model") for name in changed) or zoo.alone(method)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second._wrap()
        ours, theirs = _plain(first), _plain(second)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not _equal(ours[name], theirs[name])] == []

    @pytest.mark.parametrize("method", zoo.METHODS)
    def test_every_attribute_of_a_method_is_a_hyperparameter_or_state(self, method):
        tasks = method in zoo.NEEDS_TASKS
        subject = zoo.learner(method, tasks=tasks, epochs=1)
        for e in (zoo.task_stream if tasks else zoo.stream)(True, rows=260)[:2]:
            subject.learn(e)
            for part in _methods(subject.method):
                assert vars(part).keys() <= part.__dataclass_fields__.keys()
        for part in _methods(subject.method):
            for name, value in vars(part).items():
                assert part.__dataclass_fields__[name].init or name in part.state_dict()
                assert not isinstance(value, Stateful) or name in part.state_dict()

    def test_a_loaded_state_is_not_shared_with_the_learner_it_came_from(self):
        first, second = learner(SI()), learner(SI())
        next(first.steps(experience(0)))
        second.load_state_dict(first.state_dict())
        before = copy.deepcopy(second.method.path)
        first.learn(experience(0))
        assert checkpoint.same(before, second.method.path)


_DERIVED = {"_live", "_weights", "_shadow", "make_optimizer", "make_scheduler", "objective"}
"""Made anew from the rest by `_wrap`, or functions."""


def _plain(subject):
    """All that a learner holds, by name, as plain values."""
    held = {name: value for name, value in vars(subject).items() if name not in _DERIVED}
    return dict(_walk("learner", held)) | {"random": torch.get_rng_state()}


def _walk(name, value):
    if isinstance(value, Chain):
        value = value.methods
    elif isinstance(value, Method):
        value = {field: getattr(value, field) for field in value.__dataclass_fields__}
    elif isinstance(value, nn.Module):
        value = {"state": value.state_dict(), "modes": [module.training for module in value.modules()]}
    elif isinstance(value, Stateful):
        value = value.state_dict()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        yield f"{name}.keys", list(value)
        for key, item in value.items():
            yield from _walk(f"{name}.{key}", item)
    elif not callable(value) or isinstance(value, torch.Tensor):
        yield name, value


def _equal(first, second):
    return first is second or checkpoint.same(first, second)


def _methods(method):
    return [part for each in method.methods for part in _methods(each)] if isinstance(method, Chain) else [method]


def spoiled(name, value, place=(3, 2)):
    new = batch()
    new[name] = new[name].clone()
    new[name][place] = value
    return new


BAD_FEATURES = {
    "NaN": (spoiled("x", float("nan")), NonFiniteError, r"column 'x' of row 3 of the batch holds nan"),
    "inf": (spoiled("x", float("-inf")), NonFiniteError, r"column 'x' of row 3 of the batch holds -inf"),
    "1e30": (spoiled("x", 1e30), NonFiniteError, r"column 'x' of row 3 of the batch holds 1\.0+\d*e\+30"),
    "1e16": (spoiled("x", 1e16), NonFiniteError, r"column 'x' of row 3 .* must be finite and below 1e\+15"),
    "1e30 in double": (
        {**batch(), "x": spoiled("x", 0)["x"].double().fill_(1e30)}, NonFiniteError, r"column 'x' of row 0 .* 1e\+30",
    ),
    "NaN in half": ({**batch(), "x": spoiled("x", float("nan"))["x"].half()}, NonFiniteError, r"column 'x' of row 3"),
    "NaN elsewhere": (batch() | {"w": torch.tensor([0.0, torch.nan] * 4)}, NonFiniteError, r"column 'w' of row 1"),
    "no rows": (batch(0), ValueError, r"the batch has no rows"),
    "no columns": ({}, ValueError, r"the batch has no rows"),
    "columns of two lengths": (batch() | {"y": batch(5)["y"]}, ValueError, r"must have one length.*'x': 8, 'y': 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FEATURES)
@pytest.mark.parametrize("method", ["naive", "er", "der", "si"])
def test_bad_features_are_refused_before_anything_has_seen_them(name, method):
    bad, error, message = BAD_FEATURES[name]
    subject = ready(method)
    before = copy.deepcopy(subject.state_dict())
    with pytest.raises(error, match=message):
        subject.observe(bad)
    assert checkpoint.same(before, subject.state_dict())
    assert subject.observe(batch()).loss.isfinite()


def ready(method, **options):
    """A learner that has already learned, and whose memory is not empty."""
    made = {
        "naive": Naive,
        "er": lambda: Replay(Memory(20), count=4),
        "der": lambda: DER(Memory(20), count=4),
        "si": SI,
        "er+ewc": lambda: Chain(Replay(Memory(20), count=4), EWC()),
    }[method]()
    subject = learner(made, **options)
    for index in range(2):
        subject.learn(experience(index))
    subject.observe(batch())
    return subject


def nothing_is_finite(model, batch):
    output = classify(model, batch)
    return Output(None if output.loss is None else output.loss / 0.0, output.logits)


def no_number(model, batch):
    output = classify(model, batch)
    return Output(None if output.loss is None else output.loss * torch.nan, output.logits)


def steep(model, batch):
    output = classify(model, batch)
    return Output(None if output.loss is None else output.loss.expand(3), output.logits)


BAD_LOSSES = {
    "infinite loss": (nothing_is_finite, {}, NonFiniteError, r"the loss is inf; the step was refused"),
    "NaN loss": (no_number, {}, NonFiniteError, r"the loss is nan; the step was refused"),
    "several losses": (steep, {}, ValueError, r"the loss must be one number, but has shape \(3,\)"),
    "label too large": (
        classify, {"y": torch.tensor([0] * 7 + [7])}, ValueError,
        r"labels go from 0 to 7, but the model answers for the classes 0 to 3",
    ),
    "label negative": (classify, {"y": torch.tensor([3] * 7 + [-1])}, ValueError, r"labels go from -1 to 3"),
    "float labels": (classify, {"y": torch.zeros(8)}, TypeError, r"must be int64.*y is torch.float32"),
    "int32 labels": (classify, {"y": torch.zeros(8).int()}, TypeError, r"use `y.long\(\)`, or `regress`"),
    "listed labels": (classify, {"y": [0] * 8}, TypeError, r"column 'y' must be a tensor"),
    "no features": (classify, {"x": None}, KeyError, r"no column 'x'; it has \[('id', )?'y'\]"),
    "wrong width": (classify, {"x": torch.zeros(8, 6)}, RuntimeError, r"8x6 and 5x8"),
    "wrong shape of labels": (classify, {"y": torch.zeros(8, 2).long()}, RuntimeError, r"target"),
    "double features": (classify, {"x": torch.zeros(8, 5).double()}, RuntimeError, r"dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LOSSES)
@pytest.mark.parametrize("method", ["naive", "er+ewc"])
def test_what_only_the_model_can_refuse_leaves_weights_and_statistics_as_they_were(name, method):
    objective, columns, error, message = BAD_LOSSES[name]
    if method == "er+ewc" and columns and not name.startswith("label"):
        error, message = Exception, None  # these cannot be joined to the old rows, so something else is said
    subject = ready(method)
    subject.objective = objective
    bad = {key: column for key, column in (batch() | columns).items() if column is not None}
    assert_refused(subject, bad, error, message)


@pytest.mark.parametrize("method", ["naive", "ewc", "dann", "ncm", "er:memory=20,keep=reservoir"])
def test_an_experience_in_which_nobody_says_what_is_right_is_refused_and_the_next_is_learned(method):
    subject, other = (learner(build(method, seed=0), plain_net()) for _ in range(2))
    weights = copy.deepcopy(subject.model.state_dict())
    silent = Columns(x=rows().column("x"))
    with pytest.raises(ValueError, match=r"the rows have no labels, only \['x'\], so nothing would be learned"):
        subject.learn(Experience(0, silent, rows(), tuple(range(4))))
    assert checkpoint.same(weights, subject.model.state_dict())
    assert (subject.number, subject.begun) == (0, False)
    for each in (subject, other):
        each.learn(experience())
    assert checkpoint.same(subject.state_dict(), other.state_dict())


def test_one_row_that_batch_norm_cannot_normalise_is_refused():
    assert_refused(ready("naive"), batch(1), ValueError, r"more than 1 value per channel")
    ready("er+ewc").observe(batch(1))  # with old rows beside it, it can


def assert_refused(subject, bad, error, message):
    model, optimizer = copy.deepcopy(subject.model.state_dict()), copy.deepcopy(subject.optimizer.state_dict())
    memory, number = _ids(subject), subject.number
    with pytest.raises(error, match=message) as caught:
        subject.observe(bad)
    assert any("Nothing was learned from this batch: " in note for note in caught.value.__notes__)
    assert checkpoint.same(dict(model), dict(subject.model.state_dict()))
    assert checkpoint.same(optimizer, subject.optimizer.state_dict())
    assert all(weight.grad is None for weight in subject.model.parameters())
    assert _ids(subject) == memory
    assert subject.number == number
    subject.objective = classify
    assert subject.observe(batch(seed=5)).loss.isfinite()


def _ids(subject):
    return [part.memory.ids.tolist() for part in _methods(subject.method) if isinstance(part, Replay)]


def test_a_refused_piece_refuses_the_whole_batch():
    subject = learner(accumulate=2)
    subject.observe(batch())
    before = copy.deepcopy(subject.model.state_dict())
    bad = batch()
    bad["y"] = bad["y"].clone()
    bad["y"][6] = 9
    with pytest.raises(ValueError, match=r"labels go from"):
        subject.observe(bad)
    assert checkpoint.same(dict(before), dict(subject.model.state_dict()))


class TestRefusedExperiences:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (rows(0), r"the experience has no rows to learn from"),
            (rows(17), r"17 rows in batches of 8 .* leave a batch of one row, which BatchNorm1d '1' cannot normalise"),
            (rows(24, classes=9), r"labels go from 0 to 8, but the model answers for the classes 0 to 3.*GrowHead"),
            (Columns(x=torch.zeros(8, 7), y=torch.zeros(8).long()), r"cannot take rows of these shapes: .*'x': \(7,\)"),
            (Columns(x=torch.full((8, 5), torch.nan), y=torch.zeros(8, dtype=torch.long)), r"column 'x' of row 0"),
        ],
    )  # fmt: skip
    def test_they_say_what_is_wrong_and_the_learner_goes_on(self, data, message):
        subject = learner()
        subject.learn(experience(0))
        before = copy.deepcopy(subject.state_dict())
        with pytest.raises(ValueError, match=message):
            subject.learn(Experience(1, data, data))
        assert checkpoint.same(before, subject.state_dict())
        subject.learn(experience(1))
        assert subject.experience == 2

    def test_drop_last_must_leave_a_batch(self):
        with pytest.raises(ValueError, match=r"drop_last leaves nothing: 5 rows are less than one batch of 8"):
            learner(drop_last=True).learn(experience(count=5))

    def test_one_row_too_many_is_fine_where_nothing_normalises_batches_or_it_is_dropped(self):
        learner(model=plain_net()).learn(experience(count=17))
        learner(drop_last=True).learn(experience(count=17))
        frozen = net()
        frozen[1].eval()
        learner(model=frozen).learn(experience(count=17))

    def test_a_head_that_grew_before_the_refusal_is_trained_after_it(self):
        subject = learner(GrowHead(), plain_net(2))
        subject.learn(experience(0, classes=2))
        bad = Columns(x=torch.full((8, 5), torch.nan), y=torch.zeros(8, dtype=torch.long))
        with pytest.raises(NonFiniteError):
            subject.learn(Experience(1, bad, bad, (0, 1, 2, 3)))
        head = subject.model[2].weight
        before = head.detach().clone()
        subject.learn(experience(1, classes=4))
        assert subject.model[2].weight is head
        assert not torch.equal(before, head)
        assert id(head) in members(subject)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs must be a whole number of at least 1, but is 0"),
        ({"batch_size": 2.5}, r"batch_size must be a whole number of at least 1, but is 2.5"),
        ({"accumulate": -1}, r"accumulate must be"),
        ({"precision": "half"}, r"precision must be one of float32, bf16, fp16, but is 'half'"),
    ],
)
def test_settings_that_cannot_be_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        learner(**options)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_goes_on_exactly(precision):
    whole, first, second = (learner(precision=precision, model=plain_net()) for _ in range(3))
    whole.learn(experience())
    for step in first.steps(experience()):
        if step.place == 3:
            break
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.learn(experience())
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert {value.dtype for value in snapshot(whole.model).values()} == {torch.float32}


def test_a_model_that_is_changed_between_two_steps_keeps_the_momenta_of_what_stays():
    torch.manual_seed(0)
    learner = Learner(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), optimizer=ADAM)
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 0, 1])}
    learner.observe(batch)
    old = learner.model[2].weight
    before = learner.optimizer.state[old]["exp_avg"].clone()
    with learner.changing() as model:
        grow(model, 3)
    new = learner.model[2].weight
    assert new is not old
    assert torch.equal(learner.optimizer.state[new]["exp_avg"][:2], before)
    assert learner.optimizer.state[new]["step"] == 1
    learner.observe(batch | {"y": torch.tensor([2, 2, 0, 1])})
    assert learner.optimizer.state[new]["exp_avg"][2].any()


def test_a_part_that_is_frozen_between_two_steps_moves_no_more():
    torch.manual_seed(0)
    learner = Learner(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), optimizer=SGD)
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 0, 1])}
    learner.observe(batch)
    with learner.changing() as model:
        model[0].requires_grad_(requires_grad=False)
    kept = learner.model[0].weight.detach().clone()
    learner.observe(batch)
    assert torch.equal(learner.model[0].weight, kept)
