"""Of some old rows, those are learned again whose loss the coming step would raise most."""

import copy
from functools import partial

import pytest
import torch
from methods.small import experience, net, norm_net, shake
from torch.nn import functional as F

from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive
from everlearn.methods.mir import MIR, look_ahead
from everlearn.models import MultiHead
from everlearn.objective import Output, classify, classify_by_task, regress

SGD = partial(torch.optim.SGD, lr=0.1)


def rows(start, count=8, classes=4):
    random = torch.Generator().manual_seed(start)
    ids = torch.arange(start, start + count)
    return {"x": torch.randn(count, 5, generator=random), "y": ids % classes, "id": ids}


def filled(count=6, subsample=30, lr=0.5, *, kept=60, **options):
    method = MIR(Memory(kept, 3), count, subsample=subsample, virtual_lr=lr, **options)
    method.memory.add(rows(1000, 60))
    return method


def interference(model, batch, candidates, lr):
    """The rise of each candidate's loss, with a copy of the model that really takes the step."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        before = F.cross_entropy(model(candidates["x"]), candidates["y"], reduction="none")
    torch.optim.SGD(model.parameters(), lr=lr)
    stepper = torch.optim.SGD(model.parameters(), lr=lr)
    stepper.zero_grad()
    classify(model, batch).loss.backward()
    stepper.step()
    with torch.no_grad():
        return F.cross_entropy(model(candidates["x"]), candidates["y"], reduction="none") - before


@pytest.mark.parametrize("make", [net, norm_net])
@pytest.mark.parametrize("lr", [0.05, 2.0])
def test_the_rows_drawn_are_those_that_a_real_step_would_hurt_most(make, lr):
    method, model, batch = filled(lr=lr), make(), rows(0)
    shake(model)
    twin = Memory(60, 3)
    twin.load_state_dict(method.memory.state_dict())
    candidates = twin.sample(30)
    rise = interference(model, batch, candidates, lr)
    best = sorted(range(30), key=lambda i: -rise[i].item())[:6]
    drawn = method.draw(model, batch, classify)
    assert drawn["id"].tolist() == candidates["id"][best].tolist()
    assert rise[best].mean() > rise.mean()


def test_the_step_ahead_is_gradient_descent_on_the_new_rows_alone():
    model, batch = net(), rows(0)
    gradients = torch.autograd.grad(classify(model, batch).loss, list(model.parameters()))
    for (name, weight), g in zip(model.named_parameters(), gradients, strict=True):
        ahead = look_ahead(model, batch, classify, 0.3)[name]
        torch.testing.assert_close(ahead, (weight - 0.3 * g).detach())
        assert not ahead.requires_grad


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_looking_ahead_leaves_no_trace_in_the_model(combine):
    method, model = filled(combine=combine), norm_net()
    model[4].eval()  # one module in a mode of its own
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    weights = list(map(id, model.parameters()))
    method.draw(model, rows(0), classify)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert modes == [module.training for module in model.modules()]
    assert weights == list(map(id, model.parameters()))
    assert torch.equal(random, torch.get_rng_state())
    passes = 1 if combine == "concat" else 2
    method(model, rows(0), classify)
    assert int(model[2].num_batches_tracked) == passes


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_the_loss_is_that_of_replay_with_the_rows_drawn(combine):
    method, model, batch, seen = filled(combine=combine), net(), rows(0), []

    def watching(model, batch):
        if model.training:
            seen.append(batch)
        return classify(model, batch)

    output = method(model, batch, watching)
    lengths = [len(each["y"]) for each in seen]
    assert lengths == ([14] if combine == "concat" else [8, 6])
    torch.testing.assert_close(output.loss, sum(classify(model, each).loss for each in seen))


def test_no_gradient_is_left_behind_before_backward():
    method, model = filled(), net()
    output = method(model, rows(0), classify)
    assert all(weight.grad is None for weight in model.parameters())
    expected = torch.autograd.grad(output.loss, list(model.parameters()), retain_graph=True)
    output.loss.backward()
    assert all(torch.equal(w.grad, g) for w, g in zip(model.parameters(), expected, strict=True))


def test_it_works_without_gradients_as_remembering_does():
    method = MIR(Memory(20), 4, subsample=8)
    learner = Learner(net(), method, optimizer=SGD, batch_size=5)
    learner.remember(experience())
    assert len(method.memory) == 20


def test_a_frozen_layer_takes_no_step():
    model = net()
    model[0].requires_grad_(requires_grad=False)
    assert look_ahead(model, rows(0), classify, 1.0).keys() == {"3.weight", "3.bias"}


def test_with_heads_for_tasks_each_row_is_asked_by_its_own():
    model = MultiHead(torch.nn.Linear(5, 6), 6, 2, 2)
    method = MIR(Memory(60), 4, subsample=20)
    old, new = rows(100, 40, 2), rows(0, 8, 2)
    method.memory.add(old | {"task": torch.arange(40) % 2})
    drawn = method.draw(model, new | {"task": torch.ones(8).long()}, classify_by_task)
    assert len(drawn["y"]) == 4
    assert look_ahead(model, new | {"task": torch.ones(8).long()}, classify_by_task, 1.0).keys() == {
        "backbone.weight", "backbone.bias", "heads.1.weight", "heads.1.bias",
    }  # fmt: skip


def test_with_a_growing_head_it_learns():
    learner = Learner(net(2), Chain(GrowHead(), MIR(Memory(30), 4, subsample=12)), optimizer=SGD, batch_size=5)
    learner.learn(experience(0, classes=(0, 1)))
    learner.learn(experience(1, classes=(0, 1, 2, 3)))
    assert learner.method.methods[1].memory.seen == 40


def test_few_rows_are_all_drawn_without_a_look_ahead():
    calls = []

    def counting(model, batch):
        calls.append(len(batch["y"]))
        return classify(model, batch)

    method = MIR(Memory(60), 6, subsample=30)
    assert method.draw(net(), rows(0), counting) == {}
    method.memory.add(rows(0, 5))
    assert len(method.draw(net(), rows(8), counting)["y"]) == 5
    assert calls == []


def test_a_batch_without_a_loss_hurts_nobody():
    def mute(model, batch):
        return Output(None, classify(model, batch).logits)

    method = filled()
    assert len(method.draw(net(), rows(0), mute)["y"]) == 6
    assert method(net(), rows(0), mute).loss is None


def test_with_no_old_rows_asked_for_it_is_fine_tuning_bit_for_bit():
    weights = []
    for method in (Naive(), MIR(Memory(30), count=0)):
        learner = Learner(norm_net(), method, optimizer=SGD, batch_size=5)
        for index in range(2):
            torch.manual_seed(index)
            learner.learn(experience(index))
        weights.append([value.clone() for value in learner.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="looks at 50 rows to choose 64; subsample must not be less than count"):
        MIR(Memory(10), count=64)
    with pytest.raises(ValueError, match="combine must be one of"):
        MIR(Memory(10), combine="mean")
    method = MIR(Memory(60), 4, subsample=8)
    method.memory.add(rows(0, 60) | {"y": torch.zeros(60)})
    with pytest.raises(ValueError, match=r"mir classifies.*float32 labels; take er"):
        method(net(1), rows(100) | {"y": torch.zeros(8)}, regress)
