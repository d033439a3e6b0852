"""Contrastive replay draws rows of one class together, and answers with the nearest mean of what it kept."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import UNLABELED, join, take
from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.method import Chain
from everlearn.methods import L2, GrowHead, Replay
from everlearn.methods.composition import build
from everlearn.methods.scr import SCR
from everlearn.models import snapshot
from everlearn.models.contrast import Projection, contrastive, unaugmented
from everlearn.models.nearest import class_means, nearness
from everlearn.objective import Viewed, classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.05)


def begun(model=None, objective=classify, **options):
    """A model and the method, after an experience has begun."""
    model, method = model or net(), SCR(options.pop("memory", None) or Memory(20), **options)
    method.begin(model, experience(), objective)
    return model, method


def learned(*experiences, model=None, seed=0, memory=None, **options):
    settings = {"view": options.pop("view", None), "batch_size": 10, "seed": seed}
    subject = Learner(model or net(), SCR(memory or Memory(30), **options), optimizer=SGD, **settings)
    for each in experiences:
        subject.learn(each)
    return subject


def by_hand(z, y, t):
    """The equation of the paper, term by term, over all rows that have another of their class."""
    losses = []
    for i in range(len(z)):
        if y[i] == UNLABELED:
            continue
        others = [a for a in range(len(z)) if a != i and y[a] != UNLABELED]
        positives = [p for p in others if y[p] == y[i]]
        if positives:
            below = sum((z[i] @ z[a] / t).exp() for a in others)
            losses.append(-sum(((z[i] @ z[p] / t).exp() / below).log() for p in positives) / len(positives))
    return sum(losses) / len(losses)


def unit(rows, width, seed=0):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=random, dtype=torch.float64))


@pytest.mark.parametrize("t", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_the_paper(t, seed):
    z, y = unit(12, 4, seed), torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(contrastive(z, y, t), by_hand(z, y, t))


def test_its_gradient_is_that_of_finite_differences():
    z, y = unit(7, 3).requires_grad_(), torch.tensor([0, 0, 1, 1, 1, 2, UNLABELED])
    assert torch.autograd.gradcheck(lambda z: contrastive(F.normalize(z), y, 0.3), (z,))


def test_rows_without_a_label_and_rows_alone_in_their_class_are_no_anchors():
    z, y = unit(7, 3), torch.tensor([0, 0, 1, 1, 2, UNLABELED, UNLABELED])
    torch.testing.assert_close(contrastive(z, y, 0.2), by_hand(z, y, 0.2))
    torch.testing.assert_close(contrastive(z, y, 0.2), contrastive(z[:5], y[:5], 0.2))
    assert not torch.allclose(contrastive(z[:5], y[:5], 0.2), contrastive(z[:4], y[:4], 0.2)), "it is compared with"


@pytest.mark.parametrize("y", [[0], [0, 1, 2], [UNLABELED, UNLABELED], [3, UNLABELED]])
def test_where_nothing_can_be_compared_the_loss_and_its_gradient_are_0(y):
    z = unit(len(y), 3).requires_grad_()
    loss = contrastive(z, torch.tensor(y), 0.1)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_small_temperature_stays_finite():
    z = unit(8, 3).float().requires_grad_()
    loss = contrastive(z, torch.arange(8) % 2, 1e-3)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_new_and_old_rows_are_compared_through_the_projection():
    model, method = begun(count=6, temperature=0.3, outputs=4)
    method.memory.add(everything(experience(1).train) | {"id": torch.arange(20) + 100})
    batch = everything(experience().train) | {"id": torch.arange(20)}
    drawn = copy.deepcopy(method.memory).sample(6)
    rows = join(batch, drawn)
    assert len(rows["y"]) == 26
    z = F.normalize(method.projection(model[:-1](rows["x"])))
    torch.testing.assert_close(method(model, batch, classify).loss, by_hand(z, rows["y"], 0.3))


def test_a_view_that_augments_shows_the_rows_twice():
    def shifted(batch, key):
        return batch if key is None else batch | {"x": batch["x"] + key}

    model, method = begun(count=6, temperature=0.3)
    method.memory.add(everything(experience(1).train) | {"id": torch.arange(20) + 100})
    batch = everything(experience().train) | {"id": torch.arange(20)}
    rows = join(batch, copy.deepcopy(method.memory).sample(6))
    both = torch.cat([rows["x"] + 2, rows["x"]])
    z = F.normalize(method.projection(model[:-1](both)))
    loss = method(model, batch, Viewed(classify, shifted, 2)).loss
    torch.testing.assert_close(loss, by_hand(z, rows["y"].repeat(2), 0.3))


def test_a_view_that_does_not_augment_shows_them_once():
    plain, seen = view("unit"), Viewed(classify, view("unit", ["flip"]), 3)
    assert unaugmented(classify) is None
    assert unaugmented(Viewed(classify, plain, 3)) is None
    assert unaugmented(Viewed(classify, seen.view)) is None, "as in estimates"
    assert unaugmented(seen) == Viewed(classify, seen.view)


def test_the_head_does_not_learn_and_the_projection_does():
    model, method = begun()
    before = snapshot(method.projection)
    subject = Learner(model, method, optimizer=SGD, batch_size=10)
    head = copy.deepcopy(model[-1].state_dict())
    subject.learn(experience())
    assert checkpoint.same(head, model[-1].state_dict())
    after = snapshot(method.projection)
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_what_follows_in_the_chain_keeps_what_it_added():
    model, method = begun(count=0, temperature=0.5)
    batch, l2 = everything(experience().train), L2(lambda_=0.7)
    l2.end(model, experience(), classify)
    with torch.no_grad():
        model[0].weight += 0.1
    alone = method(model, batch, classify).loss
    penalty = l2(model, batch, classify).loss - classify(model, batch).loss
    torch.testing.assert_close(Chain(method, l2)(model, batch, classify).loss, alone + penalty)


def test_what_joins_rows_has_to_stand_before_it():
    model, method = begun(count=0)
    memory = Memory(10)
    memory.add(everything(experience(1).train))
    with pytest.raises(ValueError, match="put the method that joins rows before it"):
        Chain(method, Replay(memory))(model, everything(experience().train), classify)
    assert Chain(Replay(memory), method)(model, everything(experience().train), classify).loss.isfinite()


@pytest.mark.parametrize("make", [net, norm_net])
def test_the_answer_is_the_nearest_class_mean_of_what_is_kept(make):
    subject = learned(experience(0, classes=(0, 1, 2)), model=make(), memory=Balanced(9))
    model, kept = copy.deepcopy(subject.model).eval(), subject.method.memory.rows()

    def phi(x):
        return F.normalize(model[:-1](x)).detach()

    x = everything(experience(7).train)["x"]
    answers = subject.predict({"x": x})
    for row, answer in zip(phi(x), answers, strict=True):
        for c in range(3):
            mean = F.normalize(phi(kept["x"][kept["y"] == c]).mean(0), dim=0)
            torch.testing.assert_close(answer[c], -(row - mean).square().sum(), rtol=1e-4, atol=1e-6)
        assert answer[3] == -torch.inf


def test_the_answer_for_a_row_is_its_own_to_the_last_bit():
    subject = learned(experience(count=60), experience(1, count=60))
    x = everything(experience(7, count=50).train)["x"]
    whole = subject.predict({"x": x})
    features = subject.model[:-1](x).detach()
    means = class_means(subject.model.eval(), subject.method.memory, classify, 4)
    alone = torch.cat([nearness(row[None], *means) for row in features])
    assert torch.equal(alone, nearness(features, *means))
    torch.testing.assert_close(alone, whole)


def test_means_are_those_of_the_present_weights_even_in_the_middle_of_an_experience():
    subject, x = learned(experience()), everything(experience(7).train)["x"]
    for _ in subject.steps(experience(1)):
        fresh = nearness(subject.model.eval()[:-1](x), *class_means(subject.model, subject.method.memory, classify, 4))
        torch.testing.assert_close(subject.predict({"x": x}), fresh.detach())
        assert subject.predict({"x": x}).equal(subject.predict({"x": x}))
        subject.model.train()


def test_means_are_asked_for_once_between_two_steps():
    subject, asked = learned(experience()), []
    plain = subject.objective
    subject.objective = lambda model, batch: asked.append(len(batch["x"])) or plain(model, batch)
    for _ in range(3):
        subject.predict({"x": torch.zeros(2, 5)})
    assert asked == [2, len(subject.method.memory), 2, 2]


def test_before_anything_is_kept_the_network_answers():
    subject = learned()
    batch = {"x": everything(experience(7).train)["x"]}
    torch.testing.assert_close(subject.predict(batch), subject.model.eval()(batch["x"]).detach())


def test_rows_without_a_label_are_neither_compared_nor_kept():
    data = everything(experience().train)
    data["y"][::2] = UNLABELED
    model, method = begun(count=0, temperature=0.4)
    loss = method(model, data, classify).loss
    assert len(method.memory) == 10
    torch.testing.assert_close(loss, contrastive_of(model, method, take(data, data["y"] != UNLABELED)))
    bare = method(model, {"x": data["x"], "id": torch.arange(20)}, classify)
    assert bare.loss is None
    assert len(method.memory) == 10


def contrastive_of(model, method, rows):
    return by_hand(F.normalize(method.projection(model[:-1](rows["x"]))), rows["y"], method.temperature)


def test_a_stream_without_borders_is_learned_once_the_width_is_known():
    batch = everything(experience().train)
    with pytest.raises(ValueError, match=r"no experience has begun.*width=64"):
        learned().observe(batch)
    subject = learned(width=6)
    before = snapshot(subject.method.projection)
    subject.observe(batch)
    subject.observe(batch)
    assert not checkpoint.same(before, snapshot(subject.method.projection))
    with pytest.raises(ValueError, match="made for 7 features, but the head sees 6"):
        learned(experience(), width=7)


def test_an_optimizer_that_is_there_already_takes_the_projection_in():
    model, method = net(), SCR(Memory(20))
    subject = Learner(model, Replay(Memory(10)), optimizer=SGD, batch_size=10)
    subject.learn(experience())
    subject.method = method
    subject.learn(experience(1))
    held = {id(weight) for group in subject.optimizer.param_groups for weight in group["params"]}
    assert {id(weight) for weight in method.parameters()} <= held
    assert len(list(method.parameters())) == 4


def test_what_is_saved_in_the_middle_goes_on_with_the_same_projection(tmp_path):
    def shaken(batch, key):
        random = torch.Generator().manual_seed(key or 0)
        return batch if key is None else batch | {"x": batch["x"] + torch.randn(batch["x"].shape, generator=random) / 9}

    options = {"view": shaken, "seed": 3}
    whole, first = learned(experience(), **options), learned(experience(), **options)
    whole.learn(experience(1, 40))
    for step in first.steps(experience(1, 40)):
        if step.place == 2:
            break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learned(**options)
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(experience(1, 40))
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    x = everything(experience(7).train)["x"]
    assert torch.equal(whole.predict({"x": x}), second.predict({"x": x}))


def test_a_projection_becomes_what_it_was_with_layers_and_without():
    full, empty = Projection(), Projection()
    full.make(5, 3, seed=1)
    state, nothing = copy.deepcopy(full.state_dict()), empty.state_dict()
    empty.load_state_dict(state)
    assert checkpoint.same(dict(empty.state_dict()), dict(state))
    full.load_state_dict(nothing)
    assert not len(full)
    again = Projection()
    before = torch.get_rng_state()
    again.make(5, 3, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert checkpoint.same(dict(again.state_dict()), dict(state)), "the seed says all about it"


def test_a_head_may_grow_before_it():
    subject = Learner(net(2), Chain(GrowHead(), SCR(Memory(20))), optimizer=SGD, batch_size=10)
    data = everything(experience(1).train)
    data["y"] = data["y"] % 2 + 2
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(Experience(1, Columns(data), Columns(data), (2, 3)))
    assert subject.predict({"x": data["x"]}).isfinite().all()


def test_it_learns_classes_that_come_one_after_the_other():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    centres = 2 * F.normalize(torch.randn(4, 5, generator=random))
    parts = []
    for index in range(2):
        y = torch.arange(60) % 2 + 2 * index
        x = centres[y] + 0.3 * torch.randn(60, 5, generator=random)
        parts.append(Experience(index, Columns(x=x, y=y), Columns(x=x, y=y), (2 * index, 2 * index + 1)))
    subject = learned(model=net(), memory=Balanced(40), count=20)
    subject.epochs = 5
    for part in parts:
        subject.learn(part)
    assert min(subject.evaluate(part.test).value for part in parts) > 0.9


def test_a_model_that_was_trained_elsewhere_is_remembered():
    subject = learned()
    before = snapshot(subject.model)
    subject.remember(experience())
    assert len(subject.method.memory) == 20
    assert checkpoint.same(before, snapshot(subject.model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, but is 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0, but is nan"),
        ({"outputs": 0}, "outputs must be a whole number of at least 1, but is 0"),
        ({"width": -1}, "width must be a whole number of at least 1, but is -1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SCR(Memory(5), **options)


def test_task_labels_and_labels_that_are_no_classes_are_refused():
    model, method = begun()
    batch = everything(experience().train)
    with pytest.raises(ValueError, match="nearest of all classes"):
        method(model, batch | {"task": torch.zeros(20, dtype=torch.long)}, classify)
    with pytest.raises(TypeError, match="class labels must be int64"):
        method(model, batch | {"y": batch["y"].float()}, classify)


@pytest.mark.parametrize("other", ["er", "derpp", "lwf", "featdistill", "agem", "gem", "ogd"])
def test_what_holds_on_to_a_head_that_does_not_learn_is_refused_beside_it(other):
    for text in (f"scr+{other}", f"{other}+scr"):
        with pytest.raises(ValueError, match=f"scr leaves the head as it is, so what {other} would teach it"):
            build(text)


def test_text_makes_it_with_a_seed_of_its_own_and_beside_a_penalty():
    assert build("scr:temperature=0.1,count=10", seed=5).seed == 5
    assert [type(each) for each in build("scr+l2").methods] == [SCR, L2]
