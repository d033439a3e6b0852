"""GDumb is a function of the first weights, the memory and the seed: nothing else of the past is in the answers."""

import copy
from functools import partial

import contract.test_contract as owed
import pytest
import torch
import zoo
from methods.small import everything, experience, net, norm_net, weights

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.border import NonFiniteError
from everlearn.data import Columns, view
from everlearn.data.order import epoch_order
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.method import Chain
from everlearn.methods import GrowHead
from everlearn.methods.gdumb import GDumb
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience

ADAM = partial(torch.optim.Adam, lr=0.01)


def dumb(memory=None, **options):
    return GDumb(Balanced(20) if memory is None else memory, **{"lr": 0.1, "epochs": 3, "batch_size": 4} | options)


def learned(*experiences, method=None, model=None, **options):
    subject = Learner(model or net(), method or dumb(), optimizer=ADAM, **{"batch_size": 8, "epochs": 2} | options)
    for each in experiences:
        subject.learn(each)
    return subject


def by_hand(model, memory, lr, lr_min, epochs):
    """Plain momentum SGD over the memory, with the cosine of the paper written out."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-6)
    begin, length = 0, 1
    for epoch in range(epochs):
        if epoch == begin + length:
            begin, length = epoch, 2 * length
        angle = torch.tensor(torch.pi * (epoch - begin) / length)
        optimizer.param_groups[0]["lr"] = lr_min + (lr - lr_min) * (1 + torch.cos(angle).item()) / 2
        for part in epoch_order(len(memory), 0, 0, epoch).tensor_split(-(-len(memory) // 4)):
            optimizer.zero_grad()
            classify(model, memory.take(part)).loss.backward()
            optimizer.step()
    return model


def test_the_weights_are_those_of_training_from_scratch_on_the_memory():
    subject = learned(experience(0), experience(1), method=dumb(epochs=8, lr_min=0.01))
    expected = by_hand(net(), subject.method.memory, 0.1, 0.01, 8)
    for name, weight in weights(expected).items():
        torch.testing.assert_close(subject.model.get_parameter(name).detach(), weight)


def test_what_it_learned_before_is_not_in_the_weights():
    """Another one is given the memory, and has learned nothing."""
    subject, heir = learned(experience(0), experience(1)), Learner(net(), dumb(), optimizer=ADAM)
    heir.method.memory.load_state_dict(subject.method.memory.state_dict())
    heir.method.learning = True
    heir.method.end(heir.model, experience(1), classify)
    assert checkpoint.same(snapshot(subject.model), snapshot(heir.model))


def test_the_order_of_the_experiences_makes_no_difference():
    forth, back = (learned(*order, method=dumb(Balanced(12))) for order in _orders())
    forth_rows, back_rows = (s.method.memory.rows() for s in (forth, back))
    assert torch.equal(forth_rows["id"].sort().values, back_rows["id"].sort().values)
    data = everything(experience(5).train)
    agreed = forth.predict(data).argmax(1) == back.predict(data).argmax(1)
    assert agreed.float().mean() > 0.6  # the slots, and so the batches, differ


def _orders():
    made = []
    for index in range(3):
        data = everything(experience(index).train)
        rows = Columns({**data, "id": torch.arange(20) + 100 * index})
        made.append(Experience(index, rows, rows, (0, 1, 2, 3)))
    renumbered = [Experience(place, e.train, e.test, e.classes) for place, e in enumerate(reversed(made))]
    return made, renumbered


def test_the_memory_holds_equally_many_rows_of_each_class():
    subject = zoo.learner("naive")
    subject.method = dumb(Balanced(40))
    for each in zoo.stream():
        subject.learn(each)
    assert subject.method.memory.column("y").bincount().tolist() == [4] * 10


def test_until_the_end_nothing_moves_not_even_running_statistics():
    subject = learned(experience(0), model=norm_net())
    before = copy.deepcopy(snapshot(subject.model))
    for _ in subject.steps(experience(1)):
        if subject.position == 2:
            break
    assert checkpoint.same(before, snapshot(subject.model))
    assert subject.model.training


def test_the_optimizer_of_the_learner_is_left_alone():
    subject = learned(experience(0), experience(1))
    assert not subject.optimizer.state
    members = {id(weight) for group in subject.optimizer.param_groups for weight in group["params"]}
    assert members == set(map(id, subject.model.parameters()))
    assert all(weight.grad is None for weight in subject.model.parameters())


def test_the_same_memory_gives_the_same_weights_whatever_was_drawn_before():
    """Dropout draws from the global generator, which is given back as it was."""
    found = []
    for draws in (1, 7):
        subject = learned(model=norm_net())
        for _ in subject.steps(experience(0)):
            pass
        subject.method.learning = True
        torch.rand(draws)
        before = torch.get_rng_state()
        subject.method.end(subject.model, experience(0), classify)
        assert torch.equal(before, torch.get_rng_state())
        found.append(copy.deepcopy(snapshot(subject.model)))
    assert checkpoint.same(*found)


def test_an_end_that_was_interrupted_runs_again_to_the_same_weights():
    whole, broken = learned(experience(0), experience(1)), learned(experience(0))
    calls = []

    def failing(model, batch):
        if not broken.model.training or model is not broken.model:
            calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return classify(model, batch)

    plain, broken.objective = broken.objective, failing
    before = copy.deepcopy(snapshot(broken.model))
    with pytest.raises(KeyboardInterrupt):
        broken.learn(experience(1))
    assert checkpoint.same(before, snapshot(broken.model))
    broken.objective = plain
    broken.learn(experience(1))
    assert checkpoint.same(snapshot(whole.model), snapshot(broken.model))


@pytest.mark.parametrize("order", [lambda m: Chain(GrowHead(), m), lambda m: Chain(m, GrowHead())])
def test_outputs_of_a_head_that_grew_begin_as_new_ones_do(order):
    small, large = experience(0, classes=(0, 1)), experience(1, classes=(0, 1, 2, 3))
    subject = Learner(net(2), order(dumb()), optimizer=ADAM, batch_size=8)
    subject.learn(small)
    method = next(m for m in subject.method.methods if isinstance(m, GDumb))
    old = copy.deepcopy(method.first)
    subject.learn(large)
    first = method.first["3.weight"]
    assert torch.equal(first[:2], old["3.weight"])
    fresh = net(2)
    GrowHead().begin(fresh, large, classify)
    assert torch.equal(first[2:], fresh[3].weight[2:].detach())


def test_rows_without_a_label_are_not_kept():
    data = everything(experience().train)
    data["y"][::2] = UNLABELED
    subject = learned(Experience(0, Columns(data), Columns(data), (0, 1, 2, 3)))
    assert (subject.method.memory.column("y") >= 0).all()
    assert len(subject.method.memory) == 10


def test_to_remember_rows_is_not_to_learn_them():
    subject = Learner(net(), dumb(), optimizer=ADAM)
    before = copy.deepcopy(snapshot(subject.model))
    subject.remember(experience(0))
    assert len(subject.method.memory) == 20
    assert checkpoint.same(before, snapshot(subject.model))


def test_rows_are_augmented_as_in_training():
    seen = []

    def looked(batch, key):
        seen.append(key)
        return view()(batch, key)

    learned(experience(0), view=looked)
    keys = [key for key in seen[-15:] if key is not None]
    assert len(keys) == len(set(keys)) == 15


def test_frozen_parts_stay_as_they_are():
    model = norm_net()
    model[1].requires_grad_(requires_grad=False)
    model[2].eval()
    before = copy.deepcopy(snapshot(model))
    subject = learned(experience(0), model=model)
    for name in ("1.weight", "2.running_mean", "2.running_var"):
        assert torch.equal(snapshot(subject.model)[name], before[name])
    assert not torch.equal(snapshot(subject.model)["6.weight"], before["6.weight"])
    assert not subject.model[2].training


def test_a_learning_rate_that_diverges_is_refused_and_the_model_stays():
    subject = learned(experience(0))
    before = copy.deepcopy(snapshot(subject.model))
    subject.method.lr = subject.method.lr_min = 1e30
    with pytest.raises(NonFiniteError):
        subject.learn(experience(1))
    assert checkpoint.same(before, snapshot(subject.model))


def test_a_last_batch_is_never_of_one_row():
    subject = learned(experience(0), method=dumb(Memory(17), batch_size=16), model=norm_net())
    assert len(subject.method.memory) == 17


@pytest.mark.parametrize("value", [0, -1])
def test_epochs_must_be_positive(value):
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1"):
        dumb(epochs=value)


@pytest.mark.parametrize(
    "kind",
    [{"model": "mlp", "growing": True}, {"model": "conv"}, {"model": "transformer", "growing": True}, {"tasks": True}],
)
def test_it_keeps_the_contract(kind, monkeypatch, tmp_path):
    monkeypatch.setitem(zoo.METHODS, "gdumb", lambda: GDumb(Balanced(60), lr=0.05, epochs=3))
    owed.test_resume_is_exact("gdumb", kind, tmp_path)
    owed.test_predict_is_pure("gdumb", kind)
    owed.test_the_users_data_are_untouched("gdumb", kind)
    if kind == {"model": "mlp", "growing": True}:
        owed.test_rows_may_be_lists_of_things_that_differ_in_size("gdumb")
        owed.test_in_bf16_weights_and_what_is_kept_stay_finite_and_as_wide_as_they_were("gdumb")


def test_it_remembers():
    subject = zoo.learner("naive", epochs=1)
    subject.method = GDumb(Balanced(200), epochs=15)
    for each in zoo.stream():
        subject.learn(each)
    assert subject.evaluate(zoo.digits()[1]).value > 0.85
