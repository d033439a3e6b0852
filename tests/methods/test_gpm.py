"""GPM keeps each layer from changing what it makes of old inputs, and so the model from changing its answers."""

import copy

import pytest
import torch
import zoo
from methods.small import (
    OPTIMIZERS,
    SGD,
    everything,
    experience,
    heads,
    learner,
    net,
    norm_net,
    of_task,
    rows,
    trains_plainly,
)
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.data.order import epoch_order
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.gpm import GPM
from everlearn.models.spans import missing, noticed, unnoticed
from everlearn.models.views import snapshot
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience


class Frozen(nn.Module):
    """A model whose batch normalisation is in eval mode, for good."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(self, x):
        return self.model(x)


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32, bias=False), nn.ReLU(), nn.Linear(32, 10))


def conv():
    torch.manual_seed(0)
    return Frozen(zoo.Conv(10))


def transformer():
    torch.manual_seed(0)
    return zoo.Transformer(10)


def rows_of(index, count):
    """A few rows of digits, of two classes each."""
    data = zoo.stream(True)[index].train
    part = Columns(**data.take(torch.arange(count)))
    return Experience(index, part, part, tuple(range(10)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [wide, conv, transformer])
def test_with_all_of_their_inputs_held_old_rows_get_the_answers_of_then(model, optimizer):
    subject = learner(GPM(threshold=1.0), model(), optimizer=OPTIMIZERS[optimizer])
    count = {wide: 6, conv: 2, transformer: 1}[model]
    old = []
    for index in range(3):
        subject.learn(rows_of(index, count))
        old.append((everything(rows_of(index, count).train), subject.predict(everything(rows_of(index, count).train))))
        for batch, answers in old:
            torch.testing.assert_close(subject.predict(batch), answers, atol=2e-4, rtol=1e-3)
    plain = learner(Naive(), model(), optimizer=OPTIMIZERS[optimizer])
    for index in range(3):
        plain.learn(rows_of(index, count))
    assert (plain.predict(old[0][0]) - old[0][1]).abs().max() > 0.05


def test_it_still_learns_what_is_new():
    subject = learner(GPM(threshold=1.0), wide(), epochs=60)
    for index in range(3):
        subject.learn(rows_of(index, 6))
        batch = everything(rows_of(index, 6).train)
        assert torch.equal(subject.predict(batch).argmax(1), batch["y"])


def test_with_plain_sgd_it_is_the_projected_gradient_of_the_paper():
    """Of layers without a bias: g - g M M^T, with M by a singular value decomposition of the inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 4, bias=False))
    subject = learner(GPM(threshold=0.9, rows=15), model)
    subject.learn(experience(0))
    x = everything(experience(0).train)["x"][epoch_order(20, 0, 0, 0)[:15]]
    inputs, projections = [x, torch.tanh(x @ model[0].weight.T).detach()], []
    for a in inputs:
        u, s, _ = torch.linalg.svd(a.T, full_matrices=False)
        count = 1 + int((s.square().cumsum(0) < 0.9 * s.square().sum()).sum())
        assert count < len(s)
        projections.append(u[:, :count] @ u[:, :count].T)
    before = [weight.detach().clone() for weight in model.parameters()]
    batch = everything(experience(5).train)
    grads = torch.autograd.grad(classify(model, batch).loss, list(model.parameters()))
    subject.observe(batch)
    for weight, then, g, p in zip(model.parameters(), before, grads, projections, strict=True):
        torch.testing.assert_close(weight.detach(), then - 0.1 * (g - g @ p), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("model", [wide, conv])
def test_what_the_optimizer_does_not_hold_stays_and_old_rows_get_the_answers_of_then(model, kind):
    subject = learner(GPM(threshold=1.0), model())
    count = {wide: 6, conv: 2}[model]
    subject.learn(rows_of(0, count))
    old, before = everything(rows_of(0, count).train), snapshot(subject.model)
    answers = subject.predict(old)

    def of_kind(_):
        return SGD([weight for name, weight in subject.model.named_parameters() if name.endswith(kind)], lr=0.5)

    part = Learner(subject.model, subject.method, optimizer=of_kind, batch_size=8, epochs=5)
    part.learn(rows_of(1, count))
    torch.testing.assert_close(part.predict(old), answers, atol=2e-4, rtol=1e-3)
    after = snapshot(subject.model)
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    layers = {name for name in subject.method.basis if kind == "weight"}  # each old input has a 1 for the bias
    assert {name for name in moved if name.endswith(("weight", "bias"))} == layers


@pytest.mark.parametrize("known", ["of_no_bias", "of_few", "of_nearly_all", "of_all", "of_the_bias_alone"])
def test_a_step_is_changed_by_the_least_among_the_weights_or_the_biases_that_moved(known):
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn({"of_few": 3, "of_no_bias": 3, "of_nearly_all": 6}.get(known, 7), 7, generator=random)
    inputs[:, -1] = known != "of_no_bias"
    if known == "of_the_bias_alone":
        inputs = torch.eye(7)[-1:]
    basis = torch.linalg.qr(inputs.T.double()).Q.float()
    whole = torch.randn(4, 7, generator=random)
    for columns in (slice(7), slice(6), slice(6, 7), slice(0)):
        step = torch.zeros(4, 7)
        step[:, columns] = whole[:, columns]
        left = step - noticed(step, basis, unnoticed(basis))
        part = torch.zeros_like(basis).double()
        part[columns] = basis[columns].double()
        expected = step.double() @ (torch.eye(7).double() - part @ torch.linalg.pinv(part, rtol=1e-6))
        torch.testing.assert_close(left, expected.float(), atol=1e-5, rtol=1e-5)
        assert (left @ basis).abs().max() < 1e-5
        assert torch.equal(left[step == 0], step[step == 0])


@pytest.mark.parametrize("away", [1e-2, 1e-4, 1e-6, 0.0])
def test_a_bias_of_which_little_is_free_is_made_up_for_as_well_as_float32_can(away):
    """A span that holds the input of 1 but for `away`."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 9, generator=random).double()
    inputs[:, -1] = 0
    inputs[0] = torch.eye(9).double()[-1] + away * inputs[0]
    basis = torch.linalg.qr(inputs.T).Q.float()
    step = torch.randn(4, 9, generator=random)
    step[:, -1] = 0
    left = step - noticed(step, basis, unnoticed(basis))
    assert not left[:, -1].any()
    assert (left @ basis).abs().max() < 1e-5 * step.norm()
    assert left.norm() <= step.norm() * (1 + 1e-5)


def test_a_bias_stays_when_its_layer_is_frozen():
    subject = learner(GPM(threshold=1.0), wide())
    subject.learn(rows_of(0, 6))
    old, bias = everything(rows_of(0, 6).train), subject.model[0].bias.clone()
    subject.model[0].weight.requires_grad_(requires_grad=False)
    answers = subject.predict(old)
    subject.learn(rows_of(1, 6))
    assert torch.equal(subject.model[0].bias, bias)
    torch.testing.assert_close(subject.predict(old), answers, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_no_fewer_directions_would_hold_as_much(share):
    random = torch.Generator().manual_seed(0)
    known = torch.linalg.qr(torch.randn(8, 2, generator=random).double()).Q
    a = (torch.randn(30, 8, generator=random) * torch.logspace(0, -2, 8)).double()
    moment, total = a.T @ a, a.square().sum()
    new = missing(known, moment, share)
    both = torch.cat([known, new], 1)
    torch.testing.assert_close(both.T @ both, torch.eye(both.shape[1]).double())
    assert (a @ both).square().sum() >= share * total * (1 - 1e-9)
    if new.shape[1]:
        assert (a @ both[:, :-1]).square().sum() < share * total


def test_what_is_held_already_takes_no_new_direction():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(3, 8, generator=random).double()
    first = missing(torch.zeros(8, 0).double(), a.T @ a, 1.0)
    assert first.shape == (8, 3)
    assert missing(first, a.T @ a, 1.0).shape == (8, 0)


def test_state_is_bounded_by_the_inputs_of_the_layers():
    subject = learner(GPM(threshold=1.0), epochs=1)
    for index in range(30):
        subject.learn(experience(index))
    assert {name: part.shape for name, part in subject.method.basis.items()} == {
        "0.weight": (6, 6),
        "3.weight": (7, 7),
    }


@pytest.mark.parametrize("mute", [GPM(threshold=0.0), GPM(rows=0)])
@pytest.mark.parametrize("model", [net, norm_net])
def test_without_strength_it_is_plain_training_bit_for_bit(mute, model):
    assert trains_plainly(mute, model)


def test_normalisation_is_learned_in_the_first_experience_only():
    subject = learner(GPM(threshold=0.9), norm_net())  # with more, the three inputs of its kernels may all be held
    start = copy.deepcopy(subject.model.state_dict())
    subject.learn(experience(0))
    first = copy.deepcopy(subject.model.state_dict())
    subject.learn(experience(1))
    for name in ("2.weight", "2.bias"):
        assert not torch.equal(start[name], first[name])
        assert torch.equal(first[name], subject.model.state_dict()[name])
    assert subject.method.fixed == ["2.bias", "2.weight"]
    assert not torch.equal(first["1.weight"], subject.model.state_dict()["1.weight"])


def test_a_head_of_another_task_is_free():
    subject = learner(GPM(), heads(), objective=classify_by_task)
    for index in range(2):
        subject.learn(of_task(index, rows(seed=index, classes=2)))
    assert subject.method.basis.keys() == {"backbone.0.weight", "heads.0.weight", "heads.1.weight"}
    assert subject.method.fixed == []


def test_a_head_may_grow():
    subject = learner(Chain(GrowHead(), GPM(threshold=0.9)), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    before = subject.method.methods[1].basis["3.weight"].clone()
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.model[3].weight.shape == (4, 6)
    assert torch.equal(subject.method.methods[1].basis["3.weight"][:, : before.shape[1]], before)


def test_a_frozen_layer_is_not_moved():
    subject = learner(GPM(), net())
    subject.learn(experience(0))
    subject.model[0].requires_grad_(requires_grad=False)
    before = snapshot(subject.model[0])
    subject.learn(experience(1))
    assert checkpoint.same(before, snapshot(subject.model[0]))


def test_a_threshold_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1, but is 97"):
        GPM(threshold=97)
