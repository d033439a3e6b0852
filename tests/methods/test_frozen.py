"""Classifiers on frozen features count each row once, and leave the body alone."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, rows
from torch import distributed, nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import UNLABELED, take, unlabeled
from everlearn.data import Columns, Concat
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import GrowHead, Replay
from everlearn.methods.fecam import FeCAM
from everlearn.methods.ncm import NCM
from everlearn.methods.ranpac import RanPAC
from everlearn.methods.ridge import Ridge
from everlearn.methods.slda import SLDA
from everlearn.models import snapshot
from everlearn.objective import Output, classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
HEADS = {
    "ncm": NCM,
    "ncm-cosine": lambda **given: NCM("cosine", **given),
    "slda": SLDA,
    "slda-paper": lambda **given: SLDA(exact=False, **given),
    "ridge": Ridge,
    "ranpac": lambda **given: RanPAC(M=20, holdout=0, **given),
    "ranpac-chosen": lambda **given: RanPAC(M=20, **given),
    "fecam": lambda **given: FeCAM(lambda_=1.0, **given),
}
every_head = pytest.mark.parametrize("name", HEADS)
QUESTIONS = unlabeled(everything(rows(15, seed=99)))


def learner(name, model=None, **options):
    return Learner(net() if model is None else model, HEADS[name](), optimizer=SGD, **{"batch_size": 8} | options)


def learned(name, counts=2, **options):
    subject = learner(name, **options)
    for index in range(counts):
        subject.learn(experience(index))
    return subject


@every_head
def test_each_row_counts_once_however_many_epochs_and_whatever_the_batches(name):
    once, often = learned(name), learned(name, epochs=3, batch_size=6, seed=5, drop_last=True)
    assert checkpoint.same(once.method.state_dict(), often.method.state_dict())
    assert once.method.counts.sum() == 40


@every_head
def test_an_experience_is_looked_at_once_however_many_epochs(name):
    looked_at = []

    def counting(model, batch):
        looked_at.append(len(batch["x"]))
        return classify(model, batch)

    Learner(net(), HEADS[name](), counting, optimizer=SGD, batch_size=8, epochs=3).learn(experience(0))
    assert sum(looked_at) == 20 + 2  # two are tried before it begins


@every_head
def test_no_weight_buffer_mode_or_generator_moves(name):
    model = norm_net()
    subject = learner(name, model, epochs=2)
    before, modes, random = snapshot(model), [m.training for m in model.modules()], torch.get_rng_state()
    subject.learn(experience(0))
    subject.observe(everything(rows(8, seed=3)))
    subject.predict(QUESTIONS)
    assert checkpoint.same(before, snapshot(model))
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())


@every_head
def test_features_are_seen_in_eval_mode_without_labels_and_without_gradients(name):
    seen = []

    def watching(model, batch):
        seen.append((subject.model.training, torch.is_grad_enabled(), "y" in batch))
        return classify(model, batch)

    subject = Learner(norm_net(), HEADS[name](), watching, optimizer=SGD, batch_size=8)
    subject.learn(experience(0))
    assert set(seen) == {(False, False, False)}


@every_head
def test_what_is_seen_is_not_augmented(name):
    def view(batch, key):
        return batch if key is None else batch | {"x": batch["x"] + 100}

    assert checkpoint.same(learned(name).method.state_dict(), learned(name, view=view).method.state_dict())


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"slda-paper", "ranpac-chosen"}))
def test_order_and_batches_of_a_stream_make_no_difference(name):
    data = everything(rows(60, seed=1))
    whole = learner(name)
    whole.observe(data)
    for seed, size in ((0, 1), (1, 7), (2, 60)):
        subject = learner(name)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        for part in order.split(size):
            subject.observe(take(data, part))
        torch.testing.assert_close(subject.predict(QUESTIONS), whole.predict(QUESTIONS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"slda-paper", "ranpac-chosen"}))
def test_experiences_one_after_another_are_as_good_as_all_at_once(name):
    together = Concat([experience(index).train for index in range(3)])
    joint = learner(name)
    joint.learn(Experience(0, together, together, (0, 1, 2, 3)))
    torch.testing.assert_close(learned(name, 3).predict(QUESTIONS), joint.predict(QUESTIONS), rtol=1e-6, atol=1e-6)


@every_head
def test_float32_statistics_come_near(name):
    exact, quick = (Learner(net(), HEADS[name](precision=p), optimizer=SGD) for p in ("float64", "float32"))
    for subject in (exact, quick):
        subject.learn(experience(0, 200))
    assert quick.method.sums.dtype == torch.float32
    assert exact.method.sums.dtype == torch.float64
    assert (exact.predict(QUESTIONS).argmax(1) == quick.predict(QUESTIONS).argmax(1)).all()


@every_head
def test_autocast_does_not_reach_the_statistics(name):
    plain, mixed = (
        Learner(nn.Flatten(), HEADS[name](precision="float32"), optimizer=SGD, precision=p) for p in ("float32", "bf16")
    )
    for subject in (plain, mixed):
        subject.observe(everything(rows(40)))
    assert torch.equal(plain.predict(QUESTIONS), mixed.predict(QUESTIONS))


@every_head
def test_many_questions_are_answered_from_one_solution_and_none_from_an_old_one(name, monkeypatch):
    subject, solved = learned(name), []
    solve = type(subject.method).solve
    monkeypatch.setattr(type(subject.method), "solve", lambda self: solved.append(True) or solve(self))
    before = copy.deepcopy(subject.state_dict())
    answers = [subject.predict(QUESTIONS) for _ in range(5)]
    assert len(solved) == 1
    assert checkpoint.same(before, subject.state_dict())
    more = everything(rows(20, seed=7))
    subject.observe(more)
    assert not torch.equal(subject.predict(QUESTIONS), answers[0])
    fresh = learner(name)
    fresh.load_state_dict(subject.state_dict())
    assert torch.equal(subject.predict(QUESTIONS), fresh.predict(QUESTIONS))
    subject.load_state_dict(before)
    assert torch.equal(subject.predict(QUESTIONS), answers[0])


@every_head
def test_rows_without_a_label_are_passed_over(name):
    labels, hidden = experience(0, 30).train, experience(0, 30).train.take(torch.arange(30))
    hidden["y"] = hidden["y"].where(torch.arange(30) % 3 > 0, UNLABELED)
    kept = take(everything(labels), torch.arange(30) % 3 > 0)
    some, all_ = learner(name), learner(name)
    some.observe(hidden)
    all_.observe(kept)
    torch.testing.assert_close(some.predict(QUESTIONS), all_.predict(QUESTIONS))
    before = copy.deepcopy(some.method.state_dict())
    some.observe(unlabeled(hidden))
    some.observe(hidden | {"y": torch.full((30,), UNLABELED)})
    assert checkpoint.same(before, some.method.state_dict())
    with pytest.raises(ValueError, match="nothing would be learned"):
        some.learn(Experience(0, Columns(x=hidden["x"]), labels))
    assert checkpoint.same(before, some.method.state_dict())


@every_head
def test_before_the_first_label_the_answers_are_the_models(name):
    subject = learner(name)
    assert torch.equal(subject.predict(QUESTIONS), subject.model.eval()(QUESTIONS["x"]))


@every_head
def test_new_classes_widen_the_answers_and_classes_never_met_are_never_given(name):
    subject = learner(name, net(2))
    x = everything(rows(40))["x"]
    subject.learn(Experience(0, Columns(x=x, y=torch.arange(40) % 2), rows(), (0, 1)))
    assert subject.predict(QUESTIONS).shape == (15, 2)
    subject.learn(Experience(1, Columns(x=x + 1, y=torch.arange(40) % 2 * 3 + 2), rows(), (2, 5)))
    answers = subject.predict(QUESTIONS)
    assert answers.shape == (15, 6)
    assert (answers[:, [3, 4]] == -torch.inf).all()
    assert answers[:, [0, 1, 2, 5]].isfinite().all()


@every_head
def test_the_answers_are_as_wide_as_the_head(name):
    subject = learner(name, net(7))
    subject.observe(everything(rows(40)))
    answers = subject.predict(QUESTIONS)
    assert answers.shape == (15, 7)
    assert (answers[:, 4:] == -torch.inf).all()


@every_head
def test_a_model_without_weights_and_a_frozen_one_need_no_optimizer(name):
    still = net()
    still.requires_grad_(requires_grad=False)
    for model in (nn.Identity(), nn.Flatten(), still):
        subject = learner(name, model, scheduler=lambda optimizer, steps: pytest.fail("for nothing"))
        subject.learn(experience(0, 40))
        assert subject.optimizer is None
        other = learner(name, model)
        other.load_state_dict(subject.state_dict())
        assert torch.equal(other.predict(QUESTIONS), subject.predict(QUESTIONS))
    assert subject.evaluate(experience(0, 40).train).count == 40


def test_without_a_linear_layer_the_features_are_the_output():
    subject = learner("ncm", nn.Flatten())
    subject.learn(experience(0))
    data = everything(experience(0).train)
    torch.testing.assert_close(subject.method.sums, F.one_hot(data["y"], 4).double().T @ data["x"].double())


def test_with_a_head_the_features_are_what_goes_into_it():
    subject = learner("ncm")
    subject.learn(experience(0))
    data = everything(experience(0).train)
    h = subject.model[1](subject.model[0](data["x"])).detach().double()
    torch.testing.assert_close(subject.method.sums, F.one_hot(data["y"], 4).double().T @ h)


def test_any_layer_may_be_the_head():
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    model = nn.Sequential(body, nn.Identity())
    subject = Learner(model, NCM(head="1"), optimizer=SGD)
    subject.learn(experience(0))
    data = everything(experience(0).train)
    torch.testing.assert_close(subject.method.sums, F.one_hot(data["y"], 4).double().T @ body(data["x"]).double())


def test_a_doubt_about_the_head_is_an_error_that_names_the_way_out():
    data = everything(rows(10))
    with pytest.raises(ValueError, match=r"'0', is not what gives the answer.*head='fc'.*nn.Identity"):
        learner("ncm", nn.Sequential(nn.Linear(5, 6), nn.ReLU())).observe(data)
    with pytest.raises(ValueError, match=r"no layer 'fc'"):
        Learner(net(), NCM(head="fc"), optimizer=SGD).observe(data)

    class Twice(nn.Linear):
        def forward(self, x):
            return x

    unused = nn.Sequential(nn.Identity(), Twice(5, 4))
    unused[1].inner = nn.Linear(5, 4)
    with pytest.raises(ValueError, match="was called 0 times"):
        learner("ncm", unused).observe(data)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.full((10,), -3), ValueError, "but one is -3"),
        (torch.zeros(10), TypeError, "but these are torch.float32"),
        (torch.zeros(10, 2, dtype=torch.long), TypeError, r"of shape \(10, 2\)"),
    ],
)
def test_labels_that_are_none_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        NCM()(net(), everything(rows(10)) | {"y": y}, classify)


def test_features_that_are_not_finite_are_refused_and_not_counted():
    def exploding(model, batch):
        return Output(None, model(batch["x"]))

    model = nn.Sequential(nn.Flatten(), nn.Threshold(-torch.inf, 0.0))
    method = NCM()
    method(model, everything(rows(10)), exploding)
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match="not all finite"):
        method(model, everything(rows(10)) | {"x": torch.full((10, 5), torch.inf)}, exploding)
    assert checkpoint.same(before, method.state_dict())


@pytest.mark.parametrize("width", [4, 6])
def test_features_of_another_width_are_refused(width):
    method = NCM()
    method(nn.Identity(), everything(rows(10)), classify)
    with pytest.raises(ValueError, match=f"the features have {width} numbers, but those counted before had 5"):
        method(nn.Identity(), {"x": torch.ones(2, width), "y": torch.zeros(2, dtype=torch.long)}, classify)


def test_old_rows_that_a_memory_joins_are_not_counted_again():
    subject = Learner(net(), Chain(Replay(Memory(50), count=10), NCM()), optimizer=SGD, batch_size=5, epochs=2)
    for index in range(3):
        subject.learn(experience(index))
    assert subject.method.methods[1].counts.sum() == 60


def test_a_growing_head_makes_no_difference():
    plain, growing = NCM(), Chain(GrowHead(), NCM())
    for method in (plain, growing):
        subject = Learner(net(2), method, optimizer=SGD)
        for index in range(2):
            subject.learn(experience(index))
    assert checkpoint.same(plain.state_dict(), growing.methods[1].state_dict())


def test_rows_of_one_process_alone_are_not_counted(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    method = NCM()
    with pytest.raises(ValueError, match="learn experiences"):
        method(net(), everything(rows(4)), classify)
    assert not len(method.counts)


@every_head
def test_remembering_counts_what_learning_counts(name):
    subject = learner(name)
    for index in range(2):
        subject.remember(experience(index))
    assert checkpoint.same(subject.method.state_dict(), learned(name).method.state_dict())
