"""Each row picks its own prompts of a pool by the keys that are most like its query."""

import pytest
import torch
from methods.tokens import batch, experience, learner, vit
from torch.nn import functional as F

from everlearn.batch import join
from everlearn.data import Columns
from everlearn.methods.l2p import L2P
from everlearn.objective import classify
from everlearn.streams import Experience


def queries(model, x):
    """What the head sees where there are no prompts."""
    h = model.embedded(x)
    for block in model.blocks:
        h = block(h)
    return h[:, 0]


def picked(q, keys, count):
    """The oracle: row by row, the keys in the order of their cosines."""
    found = []
    for row in q.detach():
        cosines = [float(row @ key / (row.norm() * key.norm())) for key in keys.detach()]
        found.append(sorted(range(len(keys)), key=lambda m: -cosines[m])[:count])
    return found


def by_hand(model, x, method):
    """The oracle: the forward pass written out, with one row at a time."""
    answers = []
    for row in x.split(1):
        (chosen,) = picked(queries(model, row), method.tokens["k"], method.N)
        prompts = torch.cat([method.tokens["P"][m] for m in chosen])
        h = torch.cat((model.embedded(row), prompts[None]), 1)
        for block in model.blocks:
            h = block(h)
        answers.append(model.head(h[:, 0]))
    return torch.cat(answers)


def started(**options):
    model, method = vit().eval(), L2P(**{"M": 7, "N": 3, "L": 2} | options)
    method.begin(model, experience(), classify)
    return model, method


def test_the_answers_are_those_of_a_forward_pass_written_out_row_by_row():
    subject = learner(L2P(M=7, N=3, L=2))
    subject.learn(experience())
    model = subject.model.eval()
    with torch.no_grad():
        expected = by_hand(model, batch()["x"], subject.method)
        torch.testing.assert_close(subject.predict(batch()), expected, atol=1e-6, rtol=1e-5)
        assert len(set(map(tuple, picked(queries(model, batch()["x"]), subject.method.tokens["k"], 3)))) > 1


def test_the_loss_and_all_gradients_are_those_of_the_equation_written_out():
    model, method = started(lambda_=0.7)
    rows = batch()
    learned = [method.tokens["k"], method.tokens["P"], model.head.weight, model.head.bias]
    q = queries(model, rows["x"]).detach()
    cosines = F.normalize(q)[:, None] * F.normalize(method.tokens["k"])[None]
    chosen = torch.tensor(picked(q, method.tokens["k"], 3))
    pull = (1 - cosines.sum(2).gather(1, chosen)).sum(1).mean()
    expected = F.cross_entropy(by_hand(model, rows["x"], method)[:, :3], rows["y"]) + 0.7 * pull
    grads = torch.autograd.grad(expected, learned)
    output = method(model, rows, classify)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    for weight, grad in zip(learned, grads, strict=True):
        torch.testing.assert_close(weight.grad, grad, atol=1e-6, rtol=1e-4)
    assert all(weight.grad is None for name, weight in model.named_parameters() if not name.startswith("head"))


def test_a_minority_in_a_batch_keeps_its_own_prompts():
    """The prompts that most rows of a batch pick would tell which task a batch of one task is of."""
    model, method = started(M=10, N=2)
    rows = batch(24)
    with torch.no_grad():
        q = queries(model, rows["x"])
        choices = [frozenset(each) for each in picked(q, method.tokens["k"], 2)]
    odd = next(row for row in range(24) if choices[row] != choices[0])
    crowd = torch.cat((q[odd : odd + 1], q[:1].expand(40, -1)))
    indices = method._picked(crowd).indices
    assert frozenset(indices[0].tolist()) == choices[odd]
    assert all(frozenset(row.tolist()) == choices[0] for row in indices[1:])
    given = method.prompts(crowd)[0]
    alone = method.prompts(crowd[:1])[0]
    assert torch.equal(given[:1], alone)


def test_prompts_come_before_the_first_block_and_go_after_the_last():
    model, method = started()
    lengths = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, output: lengths.append((given[0].shape[1], output.shape[1])))
    method.stepped = True
    with torch.no_grad():
        logits = method.predict(model, batch(), classify)
    asked, prompted = lengths[:2], lengths[2:]
    assert asked == [(5, 5), (5, 5)]
    assert prompted == [(5 + 6, 5 + 6), (5 + 6, 5 + 6)], "seen from inside of the hooks of prompts"
    assert logits.shape == (12, 6)


def test_with_strength_0_the_keys_stand_still_and_the_loss_is_that_of_the_task():
    subject = learner(L2P(M=6, N=2, L=3, lambda_=0.0))
    subject.method.begin(subject.model, experience(), classify)
    keys, prompts = (subject.method.tokens[name].detach().clone() for name in "kP")
    output = subject.method(subject.model, batch(), classify)
    assert torch.equal(output.loss, F.cross_entropy(output.logits[:, :3], batch()["y"]))
    subject.learn(experience())
    assert torch.equal(subject.method.tokens["k"], keys)
    assert not torch.equal(subject.method.tokens["P"], prompts)


def test_keys_that_are_picked_come_nearer_and_the_others_stand_still():
    subject = learner(L2P(M=8, N=2, L=2), optimizer=lambda w: torch.optim.SGD(w, lr=0.05), epochs=1, batch_size=24)
    method = subject.method
    method.begin(subject.model, experience(), classify)
    keys = method.tokens["k"].detach().clone()
    with torch.no_grad():
        q = queries(subject.model.eval(), experience().train.column("x"))
        used = {m for row in picked(q, keys, 2) for m in row}
        before = method._picked(q).values.mean()
    subject.learn(experience())
    moved = {m for m in range(8) if not torch.equal(method.tokens["k"][m], keys[m])}
    assert moved == used
    assert used != set(range(8))
    assert method._picked(q).values.mean() > before


def test_prompts_that_no_row_picks_are_bit_identical():
    subject = learner(L2P(M=8, N=2, L=2), optimizer=lambda w: torch.optim.SGD(w, lr=0.1))
    subject.learn(experience())
    before = subject.method.tokens["P"].detach().clone()
    used = set()
    for _ in subject.steps(experience(1, (3, 4))):
        pass
    with torch.no_grad():
        q = queries(subject.model.eval(), experience(1, (3, 4)).train.column("x"))
        used = set(subject.method._picked(q).indices.flatten().tolist())
    still = {m for m in range(8) if torch.equal(before[m], subject.method.tokens["P"][m])}
    assert still
    assert not still & used


def test_the_pool_is_drawn_once():
    subject = learner(L2P(M=6, N=2, L=3))
    subject.learn(experience())
    held = dict(subject.method.tokens.items())
    state = {name: weight.detach().clone() for name, weight in held.items()}
    subject.method.begin(subject.model, experience(1, (3, 4)), classify)
    assert all(subject.method.tokens[name] is weight for name, weight in held.items())
    assert all(torch.equal(held[name], value) for name, value in state.items())
    assert len(list(subject.method.parameters())) == 2


def test_a_stream_without_borders_goes_on_with_the_pool():
    subject = learner(L2P(M=6, N=2, L=3))
    subject.learn(experience())
    before = subject.method.tokens["P"].detach().clone()
    rows = join(batch(8), batch(8, 1, (3, 4)))
    output = subject.observe(rows)
    assert not torch.equal(subject.method.tokens["P"], before)
    assert output.loss.isfinite()


def test_a_pool_smaller_than_what_a_row_picks_is_refused():
    with pytest.raises(ValueError, match=r"a row cannot pick N = 5 prompts of M = 4"):
        L2P(M=4)


def test_classes_that_are_not_known_leave_all_to_be_told_apart():
    method, model = L2P(M=6, N=2, L=3, lambda_=0.0), vit()
    rows = experience().train
    method.begin(model, Experience(0, rows, rows), classify)
    output = method(model, batch(), classify)
    assert torch.equal(output.loss, F.cross_entropy(output.logits, batch()["y"]))


def test_many_experiences_keep_no_more_than_one():
    subject = learner(L2P(M=4, N=2, L=2), epochs=1, batch_size=4, optimizer=lambda w: torch.optim.SGD(w, lr=1e-3))
    sizes = set()
    for index in range(30):
        rows = Columns(x=torch.randn(4, 8, generator=torch.Generator().manual_seed(index)), y=torch.arange(4))
        subject.learn(Experience(index, rows, rows, (0, 1, 2, 3)))
        sizes.add((sum(w.numel() for w in subject.method.parameters()), len(subject.optimizer.param_groups)))
    assert len(sizes) == 1
