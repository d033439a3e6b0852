"""What a task owns never moves again, so its answers are the same for ever; what is pruned is free for the next."""

from functools import partial

import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.batch import join
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, Method, attached
from everlearn.methods.growth import GrowHead
from everlearn.methods.packnet import PackNet
from everlearn.methods.replay import Replay
from everlearn.models import MultiHead, snapshot
from everlearn.models.resting import survivors
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
    "fused": partial(torch.optim.Adam, lr=0.01, weight_decay=0.5, fused=True),
}


def mlp(tasks=1, dropout=0.0):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Dropout(dropout), nn.Linear(10, 8), nn.ReLU())
    return MultiHead(body, 8, 2, tasks)


def conv(tasks=1):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2),
        nn.BatchNorm2d(4, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.LayerNorm(8),
    )
    return MultiHead(body, 8, 2, tasks).to(memory_format=torch.channels_last)


def task(index, count=40, label=None):
    random = torch.Generator().manual_seed(index)
    x = torch.randn(count, 6, generator=random) + index
    y = (x @ torch.randn(6, generator=random) > x.mean()).long()
    rows = Columns(x=x, y=y, task=torch.full((count,), index if label is None else label))
    return Experience(index, rows, rows, (0, 1), index if label is None else label)


def everything(part):
    return part.take(torch.arange(len(part)))


def learner(model=None, method=None, optimizer="sgd", **options):
    settings = {"optimizer": OPTIMIZERS[optimizer], "epochs": 3, "batch_size": 8} | options
    return Learner(mlp() if model is None else model, method or PackNet(), classify_by_task, **settings)


def grown(method=None):
    return Chain(GrowHead(), method or PackNet())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [partial(mlp, dropout=0.2), conv])
def test_answers_about_earlier_tasks_are_the_same_for_ever_bit_for_bit(make, optimizer):
    subject = learner(make(), grown(PackNet(prune=0.6)), optimizer)
    answers = []
    for index in range(4):
        for step in subject.steps(task(index)):
            if step.place % 4 == 0:
                for old, answer in enumerate(answers):
                    assert torch.equal(subject.predict(everything(task(old).test)), answer)
        answers.append(subject.predict(everything(task(index).test)))
    for old, answer in enumerate(answers):
        assert torch.equal(subject.predict(everything(task(old).test)), answer)
    assert len({tuple(answer.flatten().tolist()) for answer in answers}) == 4


def test_a_loop_that_leaves_gradients_of_zero_moves_no_old_head():
    model, method = mlp(tasks=3), PackNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    answers = []
    with attached(method, model, optimizer):
        for index in range(3):
            method.begin(model, task(index), classify_by_task)
            for epoch in range(3):
                for batch in batches(task(index).train, epoch_order(40, 0, index, epoch), 8):
                    optimizer.zero_grad(set_to_none=False)
                    method(model, batch, classify_by_task).loss.backward()
                    optimizer.step()
            method.end(model, task(index), classify_by_task)
            with torch.no_grad():
                answers.append(method.predict(model, everything(task(index).test), classify_by_task))
    with torch.no_grad():
        for index in range(3):
            now = method.predict(model, everything(task(index).test), classify_by_task)
            assert torch.equal(now, answers[index])


def test_replay_in_front_of_it_moves_nothing_that_is_owned():
    subject = learner(method=Chain(GrowHead(), Replay(Memory(20), count=8), PackNet()))
    subject.learn(task(0))
    before = subject.predict(everything(task(0).test))
    subject.learn(task(1))
    assert torch.equal(subject.predict(everything(task(0).test)), before)


def test_in_each_layer_the_share_of_lowest_magnitude_of_the_weights_of_this_task_is_pruned():
    """By hand, with one sort over a layer, at the moment of the pruning."""
    subject = learner(method=grown(PackNet(prune=0.7, after=1)), epochs=2)
    pack = subject.method.methods[1]
    for index in range(3):
        owned = {name: value.clone() for name, value in pack.owner.items()}
        for step in subject.steps(task(index)):
            if step.place == 4:
                before = snapshot(subject.model)
            if step.place == 5:  # packed in the step that ends the first epoch
                break
        for name in ("backbone.0.weight", "backbone.3.weight"):
            owner, free = pack.owner[name], owned.get(name, torch.zeros(1)) == 0
            free = free.expand_as(owner)
            new = owner == index + 1
            assert new.sum() == free.sum() - round(0.7 * int(free.sum()))
            assert not (new & ~free).any()
            left = subject.model.state_dict()[name]
            assert (left[owner == 0] == 0).all()
            assert (left[new] != 0).all()
            assert not torch.equal(left[new], before[name][new])
        subject.learn(task(index))


def test_gradients_of_what_is_owned_take_no_part_in_the_norm_that_is_clipped():
    subject = learner(mlp(tasks=2), PackNet(), clip=1e-3, optimizer="sgd")
    subject.learn(task(0))
    for _ in subject.steps(task(1)):
        grads = {name: weight.grad for name, weight in subject.model.named_parameters() if weight.grad is not None}
        for name, grad in grads.items():
            assert not grad[subject.method.owner[name] == 1].any(), name
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_survivors_are_those_that_a_sort_by_hand_leaves():
    random = torch.Generator().manual_seed(0)
    for share in (0.0, 0.3, 0.5, 1.0):
        values = torch.randn(7, 5, generator=random)
        among = torch.rand(7, 5, generator=random) > 0.4
        sizes = sorted(values[among].abs().tolist())
        bound = [*sizes, float("inf")][round(share * len(sizes))]
        assert torch.equal(survivors(values, among, share), among & (values.abs() >= bound))
        laid_out = values[:, :, None, None].contiguous(memory_format=torch.channels_last)
        other = survivors(laid_out, among[:, :, None, None], share)
        assert torch.equal(other[:, :, 0, 0], survivors(values, among, share))


def test_one_task_is_training_then_pruning_then_retraining_by_hand():
    """A plain loop, in which the mask is applied to gradients and weights, gives the same weights."""
    subject = learner(method=PackNet(prune=0.5, after=2), epochs=4)
    subject.learn(task(0))
    model = mlp()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    bodies = [model.backbone[0].weight, model.backbone[3].weight]
    masks = [torch.ones_like(weight) for weight in bodies]
    for epoch in range(4):
        if epoch == 2:
            for weight, mask in zip(bodies, masks, strict=True):
                mask[weight.abs() < weight.abs().flatten().sort().values[round(0.5 * weight.numel())]] = 0
                weight.data *= mask
        for batch in batches(task(0).train, epoch_order(40, 0, 0, epoch), 8):
            optimizer.zero_grad()
            classify_by_task(model, batch).loss.backward()
            for weight, mask in zip(bodies, masks, strict=True):
                weight.grad *= mask
            optimizer.step()
            for weight, mask in zip(bodies, masks, strict=True):
                weight.data *= mask
    for name, weight in model.named_parameters():
        torch.testing.assert_close(subject.model.get_parameter(name), weight)
    assert [int((weight == 0).sum()) for weight in bodies] == [30, 40]


def test_biases_and_statistics_are_those_of_the_first_task():
    subject = learner(conv(), grown())
    subject.learn(task(0))
    before = snapshot(subject.model)
    subject.learn(task(1))
    for name, value in snapshot(subject.model).items():
        if name in before and (before[name].dim() < 2 or name.startswith("heads.0")):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(subject.model.backbone[1].weight, before["backbone.1.weight"])


def test_later_tasks_see_the_statistics_in_training_that_they_see_in_answering():
    seen = []

    class Watch(Method):
        def loss(self, model, batch, objective, rest):
            seen.append([module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
            return rest(model, batch)

    subject = learner(conv(tasks=2), Chain(PackNet(), Watch()), epochs=1)
    for index in range(2):
        subject.learn(task(index))
        assert all(module.training for module in subject.model.modules())
    assert seen == 5 * [[True, True]] + 5 * [[False, False]]


def test_masks_are_bytes_and_account_for_every_weight():
    subject = learner(method=grown(PackNet(prune=0.5)))
    for index in range(3):
        subject.learn(task(index))
    owner = subject.method.methods[1].owner
    assert all(mask.dtype == torch.int8 for mask in owner.values())
    assert [int((owner["backbone.3.weight"] == k).sum()) for k in range(4)] == [10, 40, 20, 10]
    assert [int(owner[f"heads.{k}.weight"].unique()) for k in range(3)] == [1, 2, 3]
    assert int(owner["backbone.0.bias"].unique()) == 1


def test_rows_of_several_tasks_in_one_batch_are_answered_each_by_its_task():
    subject = learner(mlp(tasks=4), PackNet())
    for index in range(3):
        subject.learn(task(index))
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    mixed = join(*(everything(task(index).test) for index in range(4)))
    answers = torch.cat([subject.predict(everything(task(index).test)) for index in range(4)])
    torch.testing.assert_close(subject.predict({n: c[order] for n, c in mixed.items()}), answers[order])


@pytest.mark.parametrize("after", [3.0, 50.0])
def test_where_no_epoch_is_left_pruning_comes_at_the_end(after):
    subject = learner(method=PackNet(after=after))
    subject.learn(task(0))
    assert (subject.model.backbone[3].weight == 0).sum() == 40
    before = snapshot(subject.model)
    subject.method.end(subject.model, task(0), classify_by_task)
    assert checkpoint.same(before, snapshot(subject.model))


def test_pieces_of_a_batch_are_counted_as_the_batch():
    whole, pieces = (learner(method=PackNet(after=1.5), accumulate=a) for a in (1, 2))
    for subject in (whole, pieces):
        for step in subject.steps(task(0)):
            assert (subject.method.moving == 1) == (step.place >= 8), step


def test_a_share_of_0_leaves_the_next_task_its_head_alone():
    subject = learner(mlp(tasks=2), PackNet(prune=0.0))
    subject.learn(task(0))
    before = snapshot(subject.model)
    subject.learn(task(1))
    moved = {name for name, value in snapshot(subject.model).items() if not torch.equal(value, before[name])}
    assert moved == {"heads.1.weight", "heads.1.bias"}


def test_a_frozen_layer_is_neither_pruned_nor_moved():
    model = mlp(tasks=2)
    model.backbone[0].requires_grad_(requires_grad=False)
    before = snapshot(model)
    subject = Learner(model, PackNet(), classify_by_task, optimizer=OPTIMIZERS["sgd"], epochs=2, batch_size=8)
    for index in range(2):
        subject.learn(task(index))
    assert torch.equal(model.backbone[0].weight, before["backbone.0.weight"])
    assert not torch.equal(model.backbone[3].weight, before["backbone.3.weight"])


def test_what_it_cannot_pack_is_refused():
    subject = learner()
    subject.learn(task(0))
    with pytest.raises(ValueError, match=r"new tasks \(by_task\).*but not MultiHead and task 0"):
        subject.learn(task(1, label=0))
    with pytest.raises(ValueError, match="but not Linear and task None"):
        PackNet().begin(nn.Linear(6, 2), Experience(0, task(0).train, task(0).test), classify)
    with pytest.raises(ValueError, match="learn the task, not remember it"):
        learner().remember(task(0))
    with pytest.raises(ValueError, match=r"prune is a share.*but is 1.5"):
        PackNet(prune=1.5)
