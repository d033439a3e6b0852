"""A-GEM never steps against the gradient of old rows, and otherwise is plain training."""

from functools import partial

import pytest
import torch
from methods import small
from methods.small import (
    SGD,
    drawn,
    everything,
    experience,
    heads,
    net,
    norm_net,
    of_task,
    opposed,
    own_loop,
    rows,
    running_statistics,
    trains_plainly,
    weights,
)

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.border import NonFiniteError
from everlearn.data.order import epoch_order
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.method import Chain, Method
from everlearn.methods import GrowHead, Naive
from everlearn.methods.agem import AGEM
from everlearn.models.gradients import flat, get_gradient, gradient_at
from everlearn.models.views import snapshot
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

learner = partial(small.learner, epochs=3)


class Watch(AGEM):
    """Notes the gradients before and after, and what they were held against."""

    seen = ()

    def before_step(self, model):
        before, reference = get_gradient(model), None if self.reference is None else flat(self.reference)
        super().before_step(model)
        self.seen = (*self.seen, (before, get_gradient(model), reference))


def test_it_is_the_projection_written_down():
    """A plain loop, with a memory of its own that is filled alike."""
    subject = learner(AGEM(Memory(12), count=5))
    model, memory = net(), Memory(12)
    projected = 0
    for index in range(3):
        subject.learn(opposed(index))
        for batch in drawn(opposed(index), epochs=3):
            parameters = list(model.parameters())
            g = torch.autograd.grad(classify(model, batch).loss, parameters)
            if old := memory.sample(5):
                r = torch.autograd.grad(classify(model, old).loss, parameters)
                dot = sum((a * b).sum() for a, b in zip(g, r, strict=True))
                if dot < 0:
                    projected += 1
                    g = [a - dot / sum((c * c).sum() for c in r) * b for a, b in zip(g, r, strict=True)]
            with torch.no_grad():
                torch._foreach_add_(parameters, g, alpha=-0.1)
        order = epoch_order(20, 0, index, 0)
        memory.add({**opposed(index).train.take(order), "id": order + (index << 40)})
    assert projected > 3
    for name, weight in weights(model).items():
        torch.testing.assert_close(weights(subject.model)[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_no_step_points_against_old_rows_and_one_that_does_not_is_left_alone(accumulate):
    subject = learner(Watch(Memory(30), count=10), accumulate=accumulate)
    for index in range(3):
        subject.learn(opposed(index))
    held = [(before, after, r) for before, after, r in subject.method.seen if r is not None]
    against = [before @ r < 0 for before, _, r in held]
    assert 5 < sum(against) < len(against) - 5
    for (before, after, r), turned in zip(held, against, strict=True):
        assert after @ r >= -1e-6 * after.norm() * r.norm()
        assert torch.equal(before, after) != turned


def test_the_first_experience_is_plain_training_bit_for_bit():
    subject, plain = learner(AGEM(Memory(30))), learner(Naive())
    for each in (subject, plain):
        each.learn(experience())
    assert checkpoint.same(snapshot(subject.model), snapshot(plain.model))


@pytest.mark.parametrize("model", [net, norm_net])
def test_without_old_rows_to_draw_it_is_plain_training_bit_for_bit(model):
    assert trains_plainly(AGEM(Memory(30), count=0), model, opposed)


def test_old_rows_enter_no_running_statistics_and_draw_no_dropout():
    method = AGEM(Memory(30))
    assert checkpoint.same(running_statistics(method), running_statistics(Naive()))
    assert len(method.memory) == 20


def test_the_gradient_on_old_rows_is_that_at_the_weights_of_this_step():
    subject = learner(Watch(Memory(30), count=30))
    subject.learn(opposed(0))
    model = subject.model
    at = [gradient_at(model, everything(opposed(0).train), classify)]
    at += [gradient_at(model, everything(opposed(0).train), classify) for _ in subject.steps(opposed(1))]
    references = [r for _, _, r in subject.method.seen if r is not None]
    assert len(references) == 9
    for reference, expected in zip(references, at, strict=False):
        torch.testing.assert_close(reference, expected)


def test_a_step_in_pieces_draws_old_rows_once():
    class Counting(Memory):
        draws = 0

        def sample(self, count):
            self.draws += 1
            return super().sample(count)

    subject = learner(AGEM(Counting(30)), accumulate=4, epochs=1)
    subject.learn(opposed(0))
    subject.method.memory.draws = 0
    subject.learn(opposed(1))
    assert subject.method.memory.draws == 3


def test_rows_enter_the_memory_when_their_experience_ends():
    subject = learner(AGEM(Memory(30)))
    for index in range(3):
        before = subject.method.memory.ids.tolist()
        for _ in subject.steps(opposed(index)):
            if subject.method.inside:
                assert subject.method.memory.ids.tolist() == before
        expected = Memory(30)
        for past in range(index + 1):
            expected.add({**everything(opposed(past).train), "id": torch.arange(20) + (past << 40)})
        assert subject.method.memory.ids.sort().values.tolist() == expected.ids.sort().values.tolist()


def test_in_a_stream_without_borders_rows_enter_it_at_once():
    subject = learner(AGEM(Memory(30)))
    for place in range(4):
        subject.observe(everything(rows(5, seed=place)))
        assert len(subject.method.memory) == 5 * (place + 1)


def test_a_model_trained_elsewhere_is_held_to_what_it_was_shown():
    subject = learner(AGEM(Memory(30)))
    before = snapshot(subject.model)
    subject.remember(opposed(0))
    assert checkpoint.same(before, snapshot(subject.model))
    assert len(subject.method.memory) == 20
    assert subject.method.reference is None


def test_the_memory_is_full_whatever_the_number_of_experiences_and_of_rows_drawn():
    subject = learner(AGEM(Memory(12), count=5), epochs=1, batch_size=4)
    for index in range(60):
        data = rows(4, seed=index)
        subject.learn(Experience(index, data, data, (0, 1, 2, 3)))
        assert len(subject.method.memory) == min(12, 4 * (index + 1))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_head_that_is_not_in_use_moves_only_where_the_projection_moves_it(momentum):
    def tasks(index):
        return of_task(index, opposed(index, classes=2).train)

    model = heads()
    optimizer = partial(SGD, momentum=momentum, weight_decay=0.1)
    subject = Learner(model, Watch(Memory(40), count=10), classify_by_task, optimizer=optimizer, batch_size=8)
    subject.learn(tasks(0))
    never, moves = snapshot(model.heads[2]), 0
    for index in (1, 0, 1):
        for _ in subject.steps(tasks(index)):
            before, _, r = subject.method.seen[-1]
            other = model.heads[1 - index].weight
            assert (other.grad is None) == bool(r is None or before @ r >= 0)
            moves += other.grad is not None
    assert moves
    assert checkpoint.same(never, snapshot(model.heads[2]))


def test_a_head_may_grow():
    subject = learner(Chain(GrowHead(), AGEM(Balanced(30))), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.model[3].weight.shape == (4, 6)


def test_after_a_refused_batch_all_is_as_if_it_had_not_been():
    subject, spared = learner(AGEM(Memory(30), count=5)), learner(AGEM(Memory(30), count=5))
    for each in (subject, spared):
        each.learn(opposed(0))
    for _ in subject.steps(opposed(1)):
        method, subject.method = subject.method, Chain(subject.method, Refuse())
        with pytest.raises(NonFiniteError):
            subject.observe(everything(rows(8)))
        subject.method = method
    spared.learn(opposed(1))
    assert checkpoint.same(snapshot(subject.model), snapshot(spared.model))


class Refuse(Method):
    def loss(self, model, batch, objective, rest):
        output = rest(model, batch)
        return output._replace(loss=output.loss * torch.nan)


def test_rows_without_labels_are_neither_learned_nor_a_hindrance():
    subject = learner(AGEM(Memory(30)))
    subject.learn(opposed(0))
    subject.method.inside = True
    before = snapshot(subject.model)
    blank = {**everything(rows(8)), "y": torch.full((8,), UNLABELED)}
    assert subject.observe(blank).loss is None
    assert checkpoint.same(before, snapshot(subject.model))
    assert subject.method.reference is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_learns_in_half_precision(precision):
    subject = learner(Watch(Memory(30), count=10), precision=precision)
    for index in range(3):
        subject.learn(opposed(index))
    for _, after, r in subject.method.seen[-9:]:
        assert after @ r >= -1e-6 * after.norm() * r.norm()


def test_in_a_loop_of_ones_own_it_is_the_same():
    subject = learner(AGEM(Memory(30), count=10))
    for index in range(2):
        subject.learn(opposed(index))
    model = own_loop(AGEM(Memory(30), count=10), SGD, map(opposed, range(2)), epochs=3)
    assert checkpoint.same(snapshot(model), snapshot(subject.model))


def test_it_forgets_less_than_plain_training():
    scores = {}
    for name, method in {"plain": Naive(), "held": AGEM(Memory(40), count=40)}.items():
        subject = learner(method, epochs=20)
        subject.learn(opposed(0))
        known = classify(subject.model, everything(opposed(0).train)).loss.item()
        subject.learn(opposed(1))
        scores[name] = classify(subject.model, everything(opposed(0).train)).loss.item() - known
    assert scores["held"] < scores["plain"] / 2
