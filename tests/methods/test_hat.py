"""A task opens the units that it uses, and what it used stays as it was for the tasks that follow."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods.growth import GrowHead
from everlearn.methods.hat import HAT
from everlearn.models import MultiHead, Net, snapshot
from everlearn.models.gates import Gates, chain_of, compensated, gated, gated_weights, share_free, taken
from everlearn.objective import classify_by_task
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)
HEAVY = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


def mlp(tasks=3):
    torch.manual_seed(0)
    return MultiHead(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU()), 8, 2, tasks)


def conv(tasks=3):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU()
    )
    return MultiHead(body, 8, 2, tasks).to(memory_format=torch.channels_last)


def task(index, count=40, label=None):
    label = index if label is None else label
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(index))
    rows = Columns(x=x, y=(x[:, index % 6] > 0).long(), task=torch.full((count,), label))
    return Experience(index, rows, rows, (0, 1), label)


def everything(part):
    return part.take(torch.arange(len(part)))


def learner(model=None, method=None, optimizer=SGD, **options):
    settings = {"epochs": 2, "batch_size": 8} | options
    return Learner(model or mlp(), method or HAT(), classify_by_task, optimizer=optimizer, **settings)


@pytest.mark.parametrize("make", [mlp, conv])
def test_gates_multiply_what_each_layer_answers(make):
    model = make()
    layers = chain_of(model)
    random = torch.Generator().manual_seed(0)
    gates = [torch.rand(len(layer.weight), generator=random) for layer in layers.values()]
    x = everything(task(0).train)["x"]
    h, first, second = x, *layers.values()
    if make is conv:
        h = F.relu(first(x.view(-1, 1, 2, 3)) * gates[0].view(1, 4, 1, 1)).flatten(1)
    else:
        h = F.relu(first(x) * gates[0])
    h = F.relu(second(h) * gates[1])
    with gated(layers.values(), gates):
        torch.testing.assert_close(model.backbone(x), h)
    assert not torch.equal(model.backbone(x), h)
    lent = torch.func.functional_call(
        model.backbone, {n.removeprefix("backbone."): w for n, w in gated_weights(layers, gates).items()}, (x,)
    )
    torch.testing.assert_close(lent, h)


@pytest.mark.parametrize("make", [mlp, conv])
def test_what_a_weight_is_free_is_what_its_two_units_are(make):
    """By hand, weight by weight."""
    layers = chain_of(make())
    random = torch.Generator().manual_seed(0)
    used = [torch.rand(len(layer.weight), generator=random) for layer in layers.values()]
    free = share_free(layers, used)
    (first, a), (second, b) = layers.items()
    inputs = b.weight.shape[1] // len(a.weight)
    for i in range(len(a.weight)):
        assert (free[f"{first}.weight"][i] == 1 - used[0][i]).all()
        assert free[f"{first}.bias"][i] == 1 - used[0][i]
    for i in range(len(b.weight)):
        for j in range(b.weight.shape[1]):
            expected = 1 - min(used[1][i], used[0][j // inputs])
            assert free[f"{second}.weight"][i, j] == expected
        assert free[f"{second}.bias"][i] == 1 - used[1][i]


def test_the_gradient_of_an_embedding_is_compensated():
    s, s_max = 3.0, 400.0
    e = torch.linspace(-2, 2, 9, requires_grad=True)
    upstream = torch.arange(9.0)
    gate = compensated(e, s, s_max)
    torch.testing.assert_close(gate, torch.sigmoid(s * e))
    gate.backward(upstream)
    q = upstream * s * gate * (1 - gate)
    expected = q * s_max * (torch.cosh(s * e) + 1) / (s * (torch.cosh(e) + 1))
    torch.testing.assert_close(e.grad, expected.detach())
    torch.testing.assert_close(compensated(torch.tensor([5.0, -5.0]), s_max, s_max), torch.tensor([1.0, 0.0]))


def test_the_cost_is_the_mean_gate_over_units_that_are_not_used():
    gates = [torch.tensor([0.2, 0.8]), torch.tensor([0.5])]
    used = [torch.tensor([0.0, 1.0]), torch.tensor([0.5])]
    torch.testing.assert_close(taken(gates, used), torch.tensor((0.2 + 0.25) / 1.5))
    assert taken(gates, [torch.ones(2), torch.ones(1)]) == 0


def test_s_goes_from_its_least_to_its_most_in_each_epoch():
    for count, shares in ((40, (0, 8 / 32, 16 / 32, 24 / 32, 1)), (37, (0, 8 / 29, 16 / 29, 24 / 29, 1))):
        subject = learner(method=HAT(s_max=10.0))
        subject.method.begin(subject.model, task(0, count), classify_by_task)
        seen = [subject.method.s, *(subject.method.s for _ in subject.steps(task(0, count)))]
        assert seen[:10] == pytest.approx([0.1 + 9.9 * share for share in shares * 2])


def test_the_loss_is_that_of_the_paper():
    model, method = mlp(), HAT(s_max=50.0, c=0.6)
    method.begin(model, task(0), classify_by_task)
    method.s = 4.0
    method.used = [torch.rand(10), torch.rand(8)]
    batch = everything(task(0).train)
    gates = [torch.sigmoid(4.0 * e) for e in method.embedding.values()]
    h = batch["x"]
    for layer, gate in zip(chain_of(model).values(), gates, strict=True):
        h = gate * F.relu(layer(h))
    plain = F.cross_entropy(model.heads[0](h), batch["y"])
    cost = sum((a * (1 - u)).sum() for a, u in zip(gates, method.used, strict=True)) / sum(
        (1 - u).sum() for u in method.used
    )
    torch.testing.assert_close(method(model, batch, classify_by_task).loss, plain + 0.6 * cost)


@pytest.mark.parametrize("make", [mlp, conv])
def test_weights_between_units_in_use_stand_still_whatever_the_optimizer(make):
    """With gates that are fully open or shut, answers about the first task stay bit for bit."""
    subject = learner(make(), optimizer=HEAVY)
    subject.learn(task(0))
    hard = {
        place: torch.where(torch.arange(len(e)) % 2 == 0, 6.0, -6.0) for place, e in subject.method.tasks[0].items()
    }
    subject.method.tasks[0] = hard
    subject.method.embedding.put(hard)
    question = everything(task(0).test)
    before, old = subject.predict(question), snapshot(subject.model)
    subject.learn(task(1))
    torch.testing.assert_close(subject.predict(question), before, rtol=0, atol=1e-6)
    moved = {name for name, value in snapshot(subject.model).items() if not torch.equal(value, old[name])}
    layers = list(chain_of(subject.model))
    assert {f"{layer}.weight" for layer in layers} <= moved
    for name, share in subject.method.free.items():
        kept = share == 0
        assert kept.any()
        assert torch.equal(snapshot(subject.model)[name][kept], old[name][kept])


def test_clamped_embeddings_and_masks_of_ended_tasks_are_kept():
    subject = learner(method=HAT(), optimizer=partial(torch.optim.SGD, lr=50.0), epochs=1)
    for step in subject.steps(task(0)):
        assert all(e.abs().max() <= 6 for e in subject.method.embedding.parameters())
        if step.place == 3:
            break
    subject = learner(method=HAT())
    for index in range(3):
        subject.learn(task(index))
    method = subject.method
    assert sorted(method.tasks) == [0, 1, 2]
    for place, used in enumerate(method.used):
        masks = [torch.sigmoid(400.0 * method.tasks[t][str(place)]) for t in (0, 1)]
        torch.testing.assert_close(used, torch.maximum(*masks))


def test_a_task_that_comes_back_takes_its_gates_and_may_move_what_is_its_own():
    subject = learner()
    for index in range(2):
        subject.learn(task(index))
    own = {place: e.clone() for place, e in subject.method.tasks[0].items()}
    subject.method.begin(subject.model, task(2, label=0), classify_by_task)
    assert all(torch.equal(e, own[place]) for place, e in subject.method.embedding.items())
    masks = [torch.sigmoid(400.0 * e) for e in subject.method.tasks[1].values()]
    assert all(torch.equal(used, mask) for used, mask in zip(subject.method.used, masks, strict=True))


def test_embeddings_are_in_the_optimizer_and_in_the_state():
    subject = learner(method=Chain(GrowHead(), HAT()), model=mlp(1))
    subject.learn(task(0))
    members = {id(weight) for group in subject.optimizer.param_groups for weight in group["params"]}
    assert all(id(e) in members for e in subject.method.parameters())
    fresh = Gates()
    fresh.load_state_dict(subject.method.methods[1].embedding.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), subject.method.parameters(), strict=True))


def test_what_has_no_chain_of_units_is_refused():
    norm = MultiHead(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), 8, 2)
    with pytest.raises(ValueError, match=r"'backbone.1' is a BatchNorm1d behind 8 units"):
        HAT().begin(norm, task(0), classify_by_task)
    with pytest.raises(ValueError, match="need a MultiHead, with a head for each, not a Net"):
        HAT().begin(Net(), task(0), classify_by_task)
    with pytest.raises(ValueError, match="experience 3 has none; use by_task"):
        HAT().begin(mlp(), Experience(3, task(0).train, task(0).test), classify_by_task)
    with pytest.raises(ValueError, match="learn a task, not remember it"):
        learner().remember(task(0))
