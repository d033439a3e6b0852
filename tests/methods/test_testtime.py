"""What every method owes that adapts at test time, on streams without labels."""

import copy

import pytest
import torch
import zoo
from methods.small import everything, net, norm_net, rows, trains_plainly
from methods.small import learner as plain_learner
from methods.targets import (
    BUFFERS,
    NAMES,
    SGD,
    batch_norms,
    layer_norms,
    learner,
    method,
    noise,
    questions,
    source,
    target,
    told,
)
from torch import nn

from everlearn import checkpoint
from everlearn.batch import UNLABELED, join, take
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, attached
from everlearn.methods import EWC, METHODS, SAR, TENT, GrowHead, Naive, Replay
from everlearn.methods.composition import build
from everlearn.methods.testtime import AtTestTime
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience

every = pytest.mark.parametrize("name", NAMES)
learning = pytest.mark.parametrize("name", [name for name in NAMES if name != "adabn"])
norms_only = pytest.mark.parametrize("name", ["tent", "eata", "sar"])


def adapted(name, **options):
    """A learner that knows a source and has adapted to a stream."""
    subject = learner(method(name), **options)
    subject.learn(source())
    told(subject)
    return subject


def test_these_are_all_of_them():
    assert {name for name, cls in METHODS.items() if issubclass(cls, AtTestTime)} == set(NAMES)
    assert all(METHODS[name].card.family == "test time" for name in NAMES)


# -- what does not change ---------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("model", [net, norm_net])
def test_on_rows_with_labels_it_is_fine_tuning_bit_for_bit(name, model):
    assert trains_plainly(METHODS[name](), model)


@every
@pytest.mark.parametrize("pause", [1, 4, 5, 9])
def test_resume_in_the_middle_of_an_experience_without_labels_is_exact(name, pause, tmp_path):
    def made():
        return learner(method(name))

    whole = made()
    whole.learn(source())
    whole.learn(target())
    first = made()
    first.learn(source())
    for step in first.steps(target()):
        if step.place == pause:
            break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    torch.manual_seed(9)
    second = made()
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(target())
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert torch.equal(whole.predict(questions()), second.predict(questions()))


@every
@pytest.mark.parametrize("pause", [0, 1, 3])
def test_resume_in_the_middle_of_a_stream_is_exact(name, pause, tmp_path):
    x = everything(target(1, 48).train)["x"].split(8)
    whole = learner(method(name))
    whole.learn(source())
    said = [whole.observe({"x": part}).logits for part in x]
    first = learner(method(name))
    first.learn(source())
    for part in x[:pause]:
        first.observe({"x": part})
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learner(method(name))
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    again = [second.observe({"x": part}).logits for part in x[pause:]]
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert all(map(torch.equal, said[pause:], again))


@every
def test_predict_is_pure_and_answers_each_row_alone(name):
    subject = adapted(name)
    before, modes = copy.deepcopy(subject.state_dict()), [m.training for m in subject.model.modules()]
    answers = subject.predict(questions())
    assert checkpoint.same(before, subject.state_dict())
    assert modes == [module.training for module in subject.model.modules()]
    alone = torch.cat([subject.predict(take(questions(), slice(i, i + 1))) for i in range(12)])
    torch.testing.assert_close(alone, answers, atol=1e-5, rtol=1e-4)


@every
def test_predictions_follow_the_rows(name):
    subject = learner(method(name))
    subject.learn(source())
    before = subject.predict(questions())
    told(subject)
    assert not torch.equal(before, subject.predict(questions()))


@norms_only
@pytest.mark.parametrize("model", [batch_norms, layer_norms])
def test_only_scales_shifts_and_statistics_of_norms_move_whatever_the_optimizer_does(name, model):
    subject = learner(method(name), model())
    subject.learn(source())  # from here on the optimizer has momenta for all weights
    before = snapshot(subject.model)
    told(subject)
    norms = {n for n, m in subject.model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)}
    after = snapshot(subject.model)
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[0] for key in moved} <= norms
    assert any(key.endswith("weight") for key in moved)
    assert any(key.endswith("running_mean") for key in moved) == (model is batch_norms)


def test_adabn_moves_running_statistics_and_nothing_else():
    subject = learner(method("adabn"))
    subject.learn(source())
    before = snapshot(subject.model)
    told(subject)
    after = snapshot(subject.model)
    assert all(torch.equal(after[key], before[key]) != key.endswith(BUFFERS) for key in after)


def test_cotta_moves_all_weights():
    subject = learner(method("cotta"))
    subject.learn(source())
    before = snapshot(subject.model)
    told(subject)
    assert not any(torch.equal(value, before[key]) for key, value in snapshot(subject.model).items())


@every
def test_a_batch_norm_put_to_rest_stays_as_it_is(name):
    model = batch_norms()
    model[2].eval().requires_grad_(requires_grad=False)
    subject = learner(method(name), model)
    subject.learn(source())
    before = snapshot(model[2])
    told(subject)
    assert checkpoint.same(before, snapshot(model[2]))
    assert not model[2].training
    assert model[7].training


@learning
def test_weights_that_need_no_gradient_stay(name):
    model = layer_norms()
    model[1].requires_grad_(requires_grad=False)
    subject = learner(method(name), model)
    subject.learn(source())
    before = snapshot(model[1])
    told(subject)
    assert checkpoint.same(before, snapshot(model[1]))


# -- what the model looks like while it adapts ------------------------------------------------------------------


@every
def test_dropout_is_off_batch_norms_see_the_batch_and_all_is_as_it_was_afterwards(name):
    seen = []

    def watching(model, batch):
        if torch.is_grad_enabled() and "adapting" in batch:  # the passes of the student
            module = subject.model
            seen.append([module[4].training, module[2].training, module[7].training, "y" in batch])
        return classify(model, batch)

    subject = learner(method(name), objective=watching)
    subject.learn(source())
    for x in everything(target().train)["x"].split(8):
        subject.observe({"x": x, "adapting": torch.ones(len(x))})
    assert seen
    assert all(each == [False, True, True, False] for each in seen)
    assert all(module.training for module in subject.model.modules())
    assert all(weight.requires_grad for weight in subject.model.parameters())
    assert all(m.track_running_stats for m in subject.model.modules() if isinstance(m, nn.BatchNorm1d))


@every
def test_each_batch_enters_the_running_statistics_once(name):
    subject = learner(method(name))
    subject.learn(source())
    before = int(subject.model[2].num_batches_tracked)
    told(subject, count=6)
    assert int(subject.model[2].num_batches_tracked) == before + 6


@pytest.mark.parametrize("name", ["adabn", "tent", "eata", "sar"])
def test_observe_says_what_the_model_says_before_the_step_and_augments_nothing(name):
    subject = learner(method(name))
    subject.learn(source())
    other = copy.deepcopy(subject.model)
    other[4].eval()
    x = everything(target().train)["x"][:8]
    with torch.no_grad():
        expected = other(x)
    torch.testing.assert_close(subject.observe({"x": x}).logits, expected)


@every
def test_rows_without_a_column_of_labels_and_rows_whose_label_is_none_are_the_same(name):
    ends = []
    for labels in (False, True):
        subject = learner(method(name))
        subject.learn(source())
        subject.learn(target(labels=labels))
        ends.append(subject.state_dict())
    assert checkpoint.same(*ends)


@every
def test_it_works_in_a_loop_of_ones_own(name):
    ends = []
    for own in (False, True):
        adapting, model = method(name), batch_norms()
        if own:
            optimizer = SGD(model.parameters())
            with attached(adapting, model, optimizer):
                for part in everything(target().train)["x"].split(8):
                    optimizer.zero_grad()
                    loss = adapting(model, {"x": part}, classify).loss
                    if loss is not None:
                        loss.backward()
                        optimizer.step()
        else:
            told(learner(adapting, model, view=None), count=5)
        ends.append([snapshot(model), adapting.state_dict()])
    assert checkpoint.same(*ends)


@every
def test_it_can_be_shown_rows_without_changing_the_model(name):
    subject = learner(method(name))
    before = snapshot(subject.model)
    subject.remember(source())
    subject.remember(target(1))
    assert checkpoint.same(before, snapshot(subject.model))
    assert not subject.method.source


# -- w0 ---------------------------------------------------------------------------------------------------------


@every
def test_w0_and_its_statistics_are_kept_from_the_first_row_without_a_label_on(name):
    subject = learner(method(name))
    subject.learn(source())
    first = snapshot(subject.model)
    assert not subject.method.source
    told(subject)
    subject.learn(target(1))
    subject.learn(target(2))
    held = subject.method.source
    assert held
    assert all(torch.equal(value, first[key]) for key, value in held.items())
    moved = {key for key, value in snapshot(subject.model).items() if not torch.equal(value, first[key])}
    assert moved <= held.keys()
    with torch.no_grad():
        subject.method.restore(subject.model, torch.tensor(data=True))
    assert checkpoint.same(first, snapshot(subject.model))
    assert int(subject.method.resets) == 1


@every
def test_what_labels_taught_is_the_next_w0(name):
    subject = adapted(name)
    old = subject.method.source
    subject.learn(source(subject.experience))
    learned = snapshot(subject.model)
    told(subject, seed=2)
    assert all(torch.equal(value, learned[key]) for key, value in subject.method.source.items())
    assert not checkpoint.same(old, subject.method.source)


@learning
def test_a_collapse_is_one_alarm_and_brings_w0_back(name):
    for reset in (True, False):
        subject = learner(method(name, reset=reset))
        subject.learn(source())
        told(subject, count=2)
        first, memory = subject.method.source, copy.deepcopy(subject.method.spread)
        subject.method.spread.sums = torch.tensor([1e4, 0, 0, 0])  # all rows were called the same
        subject.method.spread.rows = torch.tensor(1e4)
        told(subject, count=1)
        assert int(subject.method.spread.alarms) == int(memory.alarms) + 1
        assert int(subject.method.resets) == int(reset)
        now = snapshot(subject.model)
        assert all(torch.equal(value, now[key]) for key, value in first.items()) == reset
        told(subject, count=1)
        assert int(subject.method.spread.alarms) == int(memory.alarms) + 1, "it goes on: that is no second one"


@learning
def test_with_alarm_0_there_is_none(name):
    subject = learner(method(name, alarm=0.0))
    subject.learn(source())
    told(subject, count=2)
    subject.method.spread.sums, subject.method.spread.rows = torch.tensor([1e4, 0, 0, 0]), torch.tensor(1e4)
    told(subject, count=1)
    assert int(subject.method.spread.alarms) == 0


# -- rows with labels beside ------------------------------------------------------------------------------------


@every
def test_rows_with_labels_beside_change_no_answer_and_no_statistic(name):
    alone, beside = (learner(method(name)) for _ in range(2))
    x = everything(target().train)["x"][:8]
    known = everything(rows(5, seed=3))
    order = torch.tensor([8, 0, 1, 9, 2, 3, 4, 10, 5, 6, 11, 7, 12])
    joined = take(join({"x": x, "y": torch.full((8,), UNLABELED)}, known), order)
    for subject in (alone, beside):
        torch.manual_seed(0)
        subject.learn(source())
    expected = alone.observe({"x": x})
    output = beside.observe(joined)
    torch.testing.assert_close(output.logits[order.argsort()][:8], expected.logits)
    first, second = (snapshot(subject.model) for subject in (alone, beside))
    assert all(torch.equal(first[key], second[key]) for key in first if key.endswith(BUFFERS))


@norms_only
def test_rows_with_labels_beside_add_their_loss_to_what_the_norms_learn(name):
    subject = learner(method(name), layer_norms(), view=None)
    x, known = everything(target().train)["x"][:8], everything(rows(5, seed=3))
    alone = subject.method(subject.model, {"x": x}, classify).loss
    both = subject.method(subject.model, join({"x": x, "y": torch.full((8,), UNLABELED)}, known), classify).loss
    subject.model.eval()
    torch.testing.assert_close(both - alone, classify(subject.model, known).loss)


@every
def test_a_memory_stands_beside_without_further_ado(name):
    subject = learner(Chain(Replay(Memory(30), count=6), method(name)))
    subject.learn(source())
    subject.learn(target())
    assert len(subject.method.methods[0].memory) == 30
    assert subject.number == 20


@norms_only
def test_what_holds_weights_in_front_moves_none_that_the_norms_do_not_have(name):
    subject = learner(Chain(EWC(10.0), method(name)))
    subject.learn(source())
    before = snapshot(subject.model)
    told(subject)
    after = snapshot(subject.model)
    assert all(torch.equal(after[key], before[key]) for key in after if key[0] in "169")
    assert not torch.equal(after["7.weight"], before["7.weight"])


@every
def test_a_head_may_grow_in_between(name):
    subject = learner(Chain(GrowHead(), method(name)), batch_norms(4))
    subject.learn(source())
    told(subject, count=2)
    wider = rows(24, seed=4, classes=6)
    subject.learn(Experience(1, wider, wider, tuple(range(6))))
    told(subject, count=2)
    unlabelled = Columns(x=wider.column("x"))
    subject.learn(Experience(2, unlabelled, wider, tuple(range(8))))
    assert subject.predict(questions()).shape == (12, 8)


# -- refusals ---------------------------------------------------------------------------------------------------


@every
def test_a_single_row_is_refused_under_batch_norm_and_nothing_has_changed(name):
    subject = adapted(name)
    before = copy.deepcopy(subject.state_dict())
    with pytest.raises(ValueError, match=r"single row.*batch norm '2'.*more rows.*layer or group norms"):
        subject.observe({"x": torch.zeros(1, 5)})
    assert checkpoint.same(before, subject.state_dict())
    with pytest.raises(ValueError, match="single row"):
        learner(method(name), accumulate=4).observe({"x": torch.zeros(4, 5)})


@learning
def test_a_single_row_is_welcome_under_layer_norm(name):
    subject = learner(method(name), layer_norms())
    subject.learn(source())
    assert all(subject.observe({"x": row}).logits.shape == (1, 4) for row in torch.randn(5, 1, 5))


@norms_only
def test_a_model_without_norms_is_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=r"no norm.*cotta"):
        plain_learner(method(name)).observe({"x": torch.zeros(4, 5)})


def test_adabn_refuses_a_model_without_batch_norms_with_the_way_out():
    with pytest.raises(ValueError, match=r"no batch norm.*tent"):
        learner(method("adabn"), layer_norms()).observe({"x": torch.zeros(4, 5)})


@every
def test_what_stands_behind_it_is_refused_with_the_way_out(name):
    subject = learner(Chain(method(name), Naive()))
    subject.learn(source())
    with pytest.raises(ValueError, match=r"put \w+ last"):
        subject.observe({"x": torch.zeros(4, 5)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tent+ewc", r"tent asks the model itself.*ewc\+tent"),
        ("tent+er:memory=9", r"er\+tent"),
        ("tent+sar", "would say it again"),
        ("freeze+tent", "would say it again"),
        ("lora+eata", "would say it again"),
        ("gem:memory=9+sar", "would say it again"),
        ("lwf+sar", r"learns beside the weights.*or ewc\+sar"),
    ],
)
def test_chains_that_cannot_work_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        build(text)


def test_chains_that_can_work_are_built():
    assert isinstance(build("er:memory=9+ewc+tent:episodic=true,alarm=0.5,reset=false").methods[2], TENT)
    made = build("sar:E0=0.3,rho=0.1,e_m=0.01,skip=0.5")
    assert isinstance(made, SAR)
    assert [made.E0, made.rho, made.e_m, made.skip] == [0.3, 0.1, 0.01, 0.5]


def test_regression_is_refused():
    subject = learner(TENT(), nn.Sequential(batch_norms(1), nn.Flatten(0)))
    with pytest.raises(ValueError, match=r"shape \(rows, classes\)"):
        subject.observe({"x": torch.randn(4, 5)})


# -- in reduced precision and compiled, on other shapes ------------------------------------------------------------


@every
def test_it_runs_in_bf16(name):
    subject = learner(method(name), precision="bf16")
    subject.learn(source())
    assert all(logits.isfinite().all() for logits in told(subject))


@every
def test_convolutions_in_channels_last_adapt(name):
    torch.manual_seed(0)
    subject = Learner(zoo.Conv(10), method(name), optimizer=SGD, batch_size=8, view=noise)
    assert all(
        subject.observe({"x": x}).logits.shape == (8, 10)
        for x in torch.rand(3, 8, 64, generator=torch.Generator().manual_seed(0))
    )
