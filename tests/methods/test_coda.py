"""A prompt is a sum of components, each by the attention of its row; those of earlier experiences stand still."""

import pytest
import torch
from methods.test_l2p import queries
from methods.tokens import adam, batch, experience, learner, sgd, vit
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.methods.coda import CODA
from everlearn.models.prompts import attention, overlap
from everlearn.objective import classify

THREE = ((0, 1), (2, 3), (4, 5))


def by_hand(model, x, parts):
    """The oracle: the forward pass written out; `parts` are P, A and K of each block."""
    q = queries(model, x).detach()
    h = model.embedded(x)
    for block, (p, a, k) in zip(model.blocks, parts, strict=True):
        prompts = torch.stack([sum(alpha(row, a[m], k[m]) * p[m] for m in range(len(p))) for row in q])
        h = block(torch.cat((h, prompts), 1))[:, : h.shape[1]]
    return model.head(h[:, 0])


def alpha(q, a, k):
    seen = q * a
    return (seen * k).sum() / (seen.norm() * k.norm())


def parts_of(method):
    return [[method._all(f"{place} {part}") for part in "PAK"] for place in range(2)]


def taught(count=2, **options):
    subject = learner(CODA(M=3, L=2), **options)
    for index in range(count):
        subject.learn(experience(index, THREE[index]))
    return subject


def test_attention_is_that_of_a_double_loop():
    random = torch.Generator().manual_seed(0)
    q, a, k = (torch.randn(n, 5, generator=random) for n in (7, 4, 4))
    expected = torch.tensor([[alpha(q[r], a[m], k[m]) for m in range(4)] for r in range(7)])
    torch.testing.assert_close(attention(q, a, k), expected)
    assert attention(torch.zeros(1, 5), a, k).abs().max() == 0
    zero = torch.zeros(4, 5, requires_grad=True)
    attention(q, zero, k).sum().backward()
    assert zero.grad.isfinite().all()


def test_orthonormal_components_cost_nothing_and_others_what_the_equation_says():
    torch.testing.assert_close(overlap(torch.eye(6)[:4]), torch.tensor(0.0))
    rotated = nn_orthogonal(4, 12)
    assert overlap(rotated.view(4, 3, 4)) < 1e-12
    b = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert overlap(b).item() == pytest.approx(((5 - 1) ** 2 + 2 * 2**2 + 0) / 4)


def nn_orthogonal(rows, width):
    return torch.nn.init.orthogonal_(torch.empty(rows, width), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 2])
def test_the_answers_are_those_of_a_forward_pass_written_out(count):
    subject = taught(count)
    model = subject.model.eval()
    with torch.no_grad():
        expected = by_hand(model, batch()["x"], parts_of(subject.method))
    assert len(parts_of(subject.method)[0][0]) == 3 * count
    torch.testing.assert_close(subject.predict(batch()), expected, atol=1e-6, rtol=1e-5)


def test_the_loss_and_all_gradients_are_those_of_the_equation_written_out():
    subject = taught(1)
    model, method = subject.model.eval(), subject.method
    method.lambda_ = 0.3
    method.begin(model, experience(1, (2, 3)), classify)
    rows = batch(8, 1, (2, 3))
    parts = parts_of(method)
    flat = [part.flatten(1) for each in parts for part in each]
    penalty = sum(((b @ b.T - torch.eye(6)) ** 2).mean() for b in flat)
    assert penalty > 0.01, "new components are not orthogonal to old ones"
    expected = F.cross_entropy(by_hand(model, rows["x"], parts)[:, 2:4], rows["y"] - 2) + 0.3 * penalty
    learned = [*method.tokens.values(), model.head.weight, model.head.bias]
    grads = torch.autograd.grad(expected, learned)
    for weight in learned:
        weight.grad = None
    output = method(model, rows, classify)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    for weight, grad in zip(learned, grads, strict=True):
        torch.testing.assert_close(weight.grad, grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_components_of_earlier_experiences_are_bit_identical(optimizer):
    subject = learner(CODA(M=3, L=2), optimizer=optimizer)
    subject.learn(experience(0, THREE[0]))
    first = {name: value.clone() for name, value in subject.method.past.items()}
    assert {len(value) for value in first.values()} == {3}
    for index in (1, 2):
        for _ in subject.steps(experience(index, THREE[index])):
            assert all(torch.equal(subject.method.past[name][:3], value) for name, value in first.items())
    assert {len(value) for value in subject.method.past.values()} == {9}
    assert all(torch.equal(subject.method.past[name][:3], value) for name, value in first.items())


def test_new_components_are_orthonormal_and_those_of_each_experience_are_drawn_anew():
    method, model = CODA(M=3, L=2), vit()
    drawn = []
    for index in (0, 1, 0):
        method.begin(model, experience(index), classify)
        assert all(overlap(value) < 1e-12 for value in method.tokens.values())
        drawn.append(method.tokens["0 P"].detach().clone())
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(method.tokens["0 A"], method.tokens["1 A"])
    more = CODA(M=20, L=1)
    more.begin(model, experience(), classify)
    assert more.tokens["0 K"].shape == (20, 8), "more than there is room for"


def test_the_optimizer_has_as_many_weights_as_in_the_first_experience():
    subject = learner(CODA(M=3, L=2))
    subject.learn(experience(0, THREE[0]))
    members = [id(weight) for group in subject.optimizer.param_groups for weight in group["params"]]
    subject.learn(experience(1, THREE[1]))
    assert members == [id(weight) for group in subject.optimizer.param_groups for weight in group["params"]]


def test_each_block_has_prompts_of_its_own():
    subject = taught(1)
    lengths = []
    for block in subject.model.blocks:
        block.register_forward_hook(lambda _, given, output: lengths.append(given[0].shape[1]))
    subject.predict(batch())
    assert lengths == [5, 5, 7, 7]
    given = subject.method.prompts(torch.randn(4, 8))
    assert [each.shape for each in given] == [(4, 2, 8), (4, 2, 8)]
    assert not torch.equal(given[0], given[1])


def test_with_strength_0_the_loss_is_that_of_the_task():
    method, model = CODA(M=3, L=2, lambda_=0.0), vit()
    method.begin(model, experience(), classify)
    output = method(model, batch(), classify)
    assert torch.equal(output.loss, F.cross_entropy(output.logits[:, :3], batch()["y"]))


def test_a_stream_without_borders_moves_the_head_alone_between_experiences():
    subject = taught(1)
    before = {name: value.clone() for name, value in subject.method.past.items()}
    head = subject.model.head.weight.detach().clone()
    subject.observe(batch())
    assert checkpoint.same(before, subject.method.past)
    assert not torch.equal(subject.model.head.weight, head)
    assert not subject.method.inside


def test_an_experience_that_was_only_looked_at_adds_nothing():
    subject = taught(1)
    before = subject.predict(batch())
    subject.remember(experience(1, THREE[1]))
    assert {len(value) for value in subject.method.past.values()} == {3}
    assert torch.equal(subject.predict(batch()), before)
    subject.learn(experience(2, THREE[2]))
    assert {len(value) for value in subject.method.past.values()} == {6}


def test_ending_twice_adds_components_once():
    subject = taught(1)
    subject.method.end(subject.model, experience(0), classify)
    assert {len(value) for value in subject.method.past.values()} == {3}
