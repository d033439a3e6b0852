"""The head start of new classes is measured on rows that nobody learned, and taken back."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from methods.small import experience, net, norm_net, rows, shake
from torch.nn import functional as F

from everlearn.batch import UNLABELED, tensor
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory, Ring
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.bic import BiC
from everlearn.methods.composition import build
from everlearn.models.correction import balance, corrected
from everlearn.objective import Output, classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def pair_of(index, classes, count=60):
    """An experience of two classes, whose rows have ids of their own."""
    random = torch.Generator().manual_seed(index)
    y = torch.tensor(classes)[torch.randint(2, (count,), generator=random)]
    x = torch.randn(count, 5, generator=random) + 2 * torch.eye(5)[y]
    data = Columns(x=x, y=y, id=torch.arange(count) + 1000 * index)
    return Experience(index, data, data, tuple(classes))


def learned(method=None, count=2, **options):
    method = method or BiC(Balanced(40), count=16)
    learner = Learner(net(), method, optimizer=SGD, batch_size=10, epochs=4, **options)
    for index in range(count):
        learner.learn(pair_of(index, (2 * index, 2 * index + 1)))
    return learner


def problem(seed, count=200):
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=random)
    logits = torch.randn(count, 4, generator=random) + F.one_hot(y, 4)
    logits[:, 2:] = 2.5 * logits[:, 2:] + 1.5  # the head start of the new ones
    return logits, y


def loss_of(logits, y, alpha, beta, decay):
    """The definition, in numpy."""
    z = logits.double().numpy().copy()
    z[:, 2:] = alpha * z[:, 2:] + beta
    each = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), y.numpy()]
    mean = np.mean([each[y.numpy() == c].mean() for c in np.unique(y.numpy())])
    return mean + decay / 2 * ((alpha - 1) ** 2 + beta**2)


# -- the two numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decay", [0.0, 0.01, 1.0])
def test_alpha_and_beta_are_the_optimum_that_a_search_of_the_plane_finds(seed, decay):
    logits, y = problem(seed)
    alpha, beta = balance(logits, y, [2, 3], decay).tolist()
    least = loss_of(logits, y, alpha, beta, decay)
    for size in (1.0, 0.1, 1e-2, 1e-3):
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            there = loss_of(logits, y, alpha + size * np.cos(angle), beta + size * np.sin(angle), decay)
            assert there > least
    for sign in (1, -1):  # and the gradient is zero, by central differences
        d = 1e-5 * sign
        for step in ((d, 0), (0, d)):
            up = loss_of(logits, y, alpha + step[0], beta + step[1], decay)
            down = loss_of(logits, y, alpha - step[0], beta - step[1], decay)
            assert abs(up - down) / (2 * abs(d)) < 1e-6


def test_a_head_start_that_was_put_on_is_taken_back():
    random = torch.Generator().manual_seed(0)
    fair = 2 * torch.randn(20_000, 4, generator=random)
    y = torch.distributions.Categorical(logits=fair).probs.multinomial(1, generator=random).flatten()
    alpha, beta = balance(corrected(fair, [2, 3], 2.0, 3.0), y, [2, 3], 0.0).tolist()
    assert alpha == pytest.approx(1 / 2, abs=0.02)
    assert beta == pytest.approx(-3 / 2, abs=0.06)


def test_how_many_rows_a_class_has_does_not_matter():
    logits, y = problem(0)
    few = torch.cat([torch.arange(200), *[(y == 3).nonzero().flatten()] * 5])
    torch.testing.assert_close(balance(logits[few], y[few], [2, 3], 0.01), balance(logits, y, [2, 3], 0.01))


def test_rows_that_can_be_told_apart_have_an_optimum_only_because_of_the_decay():
    logits, y = torch.tensor([[2.0, -2.0], [-2.0, 2.0]]), torch.tensor([0, 1])
    assert balance(logits, y, [1], 0.01).isfinite().all()
    assert balance(logits, y, [1], 1e6).tolist() == pytest.approx([1, 0], abs=1e-5)


def test_where_there_is_nothing_to_compare_nothing_is_corrected():
    logits, y = problem(0)
    for some in (y < 2, y >= 2, y > 9):
        assert balance(logits[some], y[some], [2, 3], 0.01).tolist() == [1, 0]


def test_only_the_logits_of_the_newest_classes_are_corrected():
    logits = torch.randn(6, 4)
    found = corrected(logits, [1, 3], 0.5, -2.0)
    assert found[:, [0, 2]].equal(logits[:, [0, 2]])
    torch.testing.assert_close(found[:, [1, 3]], 0.5 * logits[:, [1, 3]] - 2)
    assert corrected(logits, [1, 3], 1.0, 0.0).equal(logits)
    assert corrected(logits, [], 7.0, 7.0).equal(logits)


# -- the method ----------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_rows_held_back_and_the_answers_are_corrected_by_them():
    learner = learned()
    method, model = learner.method, learner.model
    kept = method.memory.rows()
    some = method.held(kept["id"])
    assert 2 < some.sum() < 20
    with torch.no_grad():
        logits = model.eval()(kept["x"][some])
    alpha, beta = balance(logits, kept["y"][some], [2, 3], method.decay).tolist()
    assert (method.alpha, method.beta) == pytest.approx((alpha, beta), rel=1e-5)
    assert (alpha, beta) != (1, 0)
    with torch.no_grad():
        expected = corrected(model(kept["x"]), [2, 3], alpha, beta)
    torch.testing.assert_close(learner.predict({"x": kept["x"]}), expected)


def test_after_the_first_experience_nothing_is_corrected():
    learner = learned(count=1)
    assert (learner.method.alpha, learner.method.beta) == (1, 0)
    x = torch.randn(5, 5)
    with torch.no_grad():
        assert learner.predict({"x": x}).equal(learner.model.eval()(x))


def test_while_the_weights_move_the_answers_are_theirs():
    learner = learned()
    x = torch.randn(5, 5)
    for step in learner.steps(pair_of(2, (0, 1))):
        with torch.no_grad():
            plain = copy.deepcopy(learner.model).eval()(x)
        assert learner.predict({"x": x}).equal(plain)
        if step.place == 3:
            break


def test_a_row_that_is_held_back_is_never_learned():
    seen = []

    def watching(model, batch):
        if model.training and "y" in batch:
            seen.append(tensor(batch, "id")[tensor(batch, "y") != UNLABELED])
        return classify(model, batch)

    method = BiC(Memory(40), count=16, validation=0.3)
    learner = Learner(net(), method, watching, optimizer=SGD, batch_size=10, epochs=4)
    for index in range(3):
        learner.learn(pair_of(index, (0, 1)))
    held = method.memory.ids[method.held(method.memory.ids)]
    assert 4 < len(held) < 25
    assert not torch.isin(torch.cat(seen), held).any()
    others = torch.cat([pair_of(index, (0, 1)).train.column("id") for index in range(3)])
    missing = others[~torch.isin(others, torch.cat(seen))]
    assert method.held(missing).all()
    assert len(missing) < method.held(others).sum() - 10, "those that the memory did not keep are learned"


def test_what_is_held_back_is_a_function_of_the_id_and_the_seed():
    ids = torch.arange(100_000)
    method = BiC(Memory(10), validation=0.2)
    assert method.held(ids).float().mean().item() == pytest.approx(0.2, abs=0.005)
    assert method.held(ids[500:600]).equal(method.held(ids)[500:600])
    assert not method.held(ids).equal(BiC(Memory(10), validation=0.2, seed=1).held(ids))
    assert not BiC(Memory(10), validation=0.0).held(ids).any()


def taught(validation=0.0, **options):
    """A method that has learned two classes of four, and a student that has moved since."""
    method, model = BiC(Balanced(40), count=0, validation=validation, **options), net()
    method.begin(model, pair_of(0, (0, 1)), classify)
    method.end(model, pair_of(0, (0, 1)), classify)
    method.begin(model, pair_of(1, (2, 3)), classify)
    return method, model, copy.deepcopy(model)


def test_the_loss_is_that_of_the_paper_but_for_the_entropy_of_the_teacher():
    method, model, teacher = taught()
    method.newest, method.alpha, method.beta = [1], 0.7, -0.4  # as if there had been an experience before
    shake(model)
    batch = pair_of(1, (2, 3)).train.take(torch.arange(10))
    q = teacher(batch["x"])[:, :2].detach()
    q[:, 1] = 0.7 * q[:, 1] - 0.4
    p, z = (q / 2).softmax(1), model(batch["x"])
    cross = -(p * (z[:, :2] / 2).log_softmax(1)).sum(1).mean()
    paper = 1 / 2 * F.cross_entropy(z, batch["y"]) + 1 / 2 * cross  # n = m = 2
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(method(model, batch, classify).loss, paper - entropy / 2)
    found = torch.autograd.grad(method(model, batch, classify).loss, list(model.parameters()))
    for f, e in zip(found, torch.autograd.grad(paper, list(model.parameters())), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_its_teacher_learns_from_labels_only():
    method, model, _ = taught()
    batch = pair_of(1, (2, 3)).train.take(torch.arange(10))
    torch.testing.assert_close(method(model, batch, classify).loss, classify(model, batch).loss / 2)


@pytest.mark.parametrize(
    ("first", "then", "share"), [((0, 1), (2, 3), 1 / 2), ((0, 1, 2), (3,), 3 / 4), ((0, 1), (1, 0), 0)]
)
def test_the_share_of_the_teacher_is_that_of_the_classes_that_it_alone_knows(first, then, share):
    method, model = BiC(Balanced(40), count=0, validation=0.0), net()
    for index, classes in enumerate((first, then)):
        y = torch.tensor(classes)[torch.arange(20) % len(classes)]
        data = Columns(x=torch.randn(20, 5), y=y, id=torch.arange(20) + 1000 * index)
        each = Experience(index, data, data, classes)
        method.begin(model, each, classify)
        batch = data.take(torch.arange(20))
        if index:
            torch.testing.assert_close(method(model, batch, classify).loss, (1 - share) * classify(model, batch).loss)
        method.end(model, each, classify)


def test_a_row_that_is_held_back_teaches_nothing_through_the_teacher_either():
    method, model, _ = taught(validation=0.5)
    shake(model)
    batch = pair_of(1, (2, 3)).train.take(torch.arange(10))
    x = batch["x"].clone().requires_grad_()
    gradient = torch.autograd.grad(method(model, batch | {"x": x}, classify).loss, x)[0]
    back = method.held(batch["id"])
    assert 0 < back.sum() < 10
    assert not gradient[back].any()
    assert gradient[~back].abs().sum(1).min() > 0


def test_a_batch_that_is_held_back_as_a_whole_is_no_step():
    method, model, _ = taught(validation=0.5)
    data = pair_of(1, (2, 3)).train.take(torch.arange(60))
    back = method.held(data["id"])
    output = method(model, {name: column[back] for name, column in data.items()}, classify)
    assert output.loss is None
    assert len(output.logits) == back.sum()


def test_without_replay_validation_and_a_past_it_is_fine_tuning_bit_for_bit():
    weights = []
    for method in (Naive(), BiC(Memory(30), count=0, validation=0.0)):
        learner = Learner(norm_net(), method, optimizer=SGD, batch_size=5, epochs=2)
        torch.manual_seed(0)
        learner.learn(experience())
        weights.append([value.clone() for value in learner.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_with_a_growing_head_the_teacher_keeps_its_own():
    learner = Learner(net(2), Chain(GrowHead(), BiC(Balanced(30), 8)), optimizer=SGD, batch_size=10)
    learner.learn(pair_of(0, (0, 1)))
    learner.learn(pair_of(1, (2, 3)))
    assert learner.method.methods[1].teacher["3.weight"].shape == (4, 6)
    assert learner.predict({"x": torch.randn(3, 5)}).shape == (3, 4)


def test_it_works_without_gradients_as_remembering_does():
    learner = Learner(net(), BiC(Balanced(20)), optimizer=SGD, batch_size=10)
    for index in range(2):
        learner.remember(pair_of(index, (2 * index, 2 * index + 1)))
    assert learner.method.learned == [0, 1, 2, 3]
    assert len(learner.method.memory) == 20


def test_rows_without_a_label_and_batches_without_a_loss_are_left_alone():
    method, model, _ = taught()
    data = rows(10).take(torch.arange(10)) | {"id": torch.arange(10)}
    assert method(model, {"x": data["x"], "id": data["id"]}, classify).loss is None
    assert method.memory.seen == 0
    assert method(model, data, lambda model, batch: Output(None, classify(model, batch).logits)).loss is None
    data["y"][:5] = UNLABELED
    assert method(model, data, classify).loss.isfinite()
    method.end(model, pair_of(1, (2, 3)), classify)


def test_it_takes_back_the_head_start_of_the_newest_classes():
    """With few old rows against many new ones, more rows of old classes are recognised with the correction."""
    method = BiC(Balanced(30), count=8, validation=0.3)
    learner = Learner(net(), method, optimizer=SGD, batch_size=10, epochs=8)
    first, second = pair_of(0, (0, 1), 200), pair_of(1, (2, 3), 200)
    learner.learn(first)
    learner.learn(second)
    after = learner.evaluate(first.test).value
    method.alpha, method.beta = 1.0, 0.0
    assert after >= learner.evaluate(first.test).value


def test_typed_and_refused():
    method = build("bic:memory=50,count=3,T=3,validation=0.2", seed=2)
    assert isinstance(method.memory, Balanced)
    assert (method.memory.capacity, method.count, method.T, method.validation, method.seed) == (50, 3, 3, 0.2, 2)
    with pytest.raises(ValueError, match=r"a Ring lets in what it turned away; take a Balanced or a Memory"):
        BiC(Ring(10))
    for chain in ("er:memory=50+bic:memory=50", "bic:memory=50+derpp:memory=50"):
        with pytest.raises(ValueError, match=r"bic holds rows back that nobody may learn, but (er|derpp) would"):
            build(chain)
    build("bic:memory=50+ewc")
    learner = Learner(net(), BiC(Memory(10)), optimizer=SGD)
    data = rows(10)
    with pytest.raises(ValueError, match="is of task 3"):
        learner.learn(Experience(0, data, data, (0, 1), task=3))
