"""Small models, experiences and training loops for the tests of single methods."""

from functools import partial

import torch
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.learner import Learner
from everlearn.method import attached
from everlearn.methods import Naive
from everlearn.models import MultiHead
from everlearn.models.views import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)
OPTIMIZERS = {
    "sgd": SGD,
    "momentum": partial(SGD, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


DECAYING = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
}
"""Those that move a weight whose gradient is zero."""


def net(outputs=4, *, dropout=0.0):
    """Two layers for rows of 5 numbers, the same at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, outputs))


def norm_net(outputs=4):
    """A convolution with batch normalisation and dropout, for rows of 5 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 3, 3),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(9, outputs),
    )


def heads(tasks=3):
    """A layer for rows of 5 numbers, and two outputs for each task."""
    torch.manual_seed(0)
    return MultiHead(nn.Sequential(nn.Linear(5, 6), nn.Tanh()), 6, 2, tasks=tasks)


def rows(count=20, seed=0, classes=4):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=random)
    return Columns(x=x, y=torch.randint(classes, (count,), generator=random))


def experience(index=0, count=20, classes=(0, 1, 2, 3)):
    data = rows(count, seed=index, classes=len(classes))
    return Experience(index, data, data, tuple(classes))


def opposed(index, classes=4, **more):
    """Rows whose labels each experience contradicts, so that gradients often do, too."""
    x = everything(rows(20, seed=0))["x"] + 0.1 * torch.randn(20, 5, generator=torch.Generator().manual_seed(index))
    data = Columns(x=x, y=(torch.arange(20) + index) % classes, **more)
    return Experience(index, data, data, tuple(range(classes)))


def growing():
    """Two experiences, the second of which brings new classes."""
    return [experience(0, classes=(0, 1)), experience(1)]


def of_task(index, part):
    """An experience of rows of two classes, as a task."""
    data = Columns(**{**everything(part), "task": torch.full((len(part),), index)})
    return Experience(index, data, data, (0, 1), index)


def everything(part):
    return part.take(torch.arange(len(part)))


def shake(model, seed=0, size=0.3):
    """Moves all weights, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=random), alpha=size)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def learner(method, model=None, **options):
    """Two epochs of batches of 8 with plain SGD, unless `options` say otherwise."""
    return Learner(model or net(), method, **{"optimizer": SGD, "batch_size": 8, "epochs": 2} | options)


def drawn(experience, epochs=2):
    """The batches of 8 that a learner takes from `experience`."""
    for epoch in range(epochs):
        yield from batches(experience.train, epoch_order(len(experience.train), 0, experience.index, epoch), 8)


def own_loop(method, optimizer, stream, epochs=2):
    """The model that `method` leaves in a loop without a learner."""
    model = net()
    stepping = optimizer(model.parameters())
    with attached(method, model, stepping):
        for each in stream:
            method.begin(model, each, classify)
            for batch in drawn(each, epochs):
                stepping.zero_grad()
                method(model, batch, classify).loss.backward()
                stepping.step()
            method.end(model, each, classify)
    return model


def assert_resume_is_exact(fresh, stream, pauses, folder):
    """A learner that `fresh` makes and that never stops ends as those do that go on from its state after `pauses`."""
    whole, left = fresh(), set(pauses)
    torch.manual_seed(5)
    for each in stream:
        for step in whole.steps(each):
            if step.number in left:
                checkpoint.save(whole.state_dict(), folder / str(step.number))
                left.remove(step.number)
    assert not left
    for number in pauses:
        second = fresh()
        second.load_state_dict(checkpoint.load(folder / str(number)))
        for each in stream[second.experience :]:
            second.learn(each)
        assert checkpoint.same(whole.state_dict(), second.state_dict()), f"stopped at step {number}"


def trains_plainly(method, model=net, stream=experience, **options):
    """Whether three experiences leave the weights of plain training, bit for bit."""
    found = []
    for each in (Naive(), method):
        subject = learner(each, model(), **options)
        torch.manual_seed(5)
        for index in range(3):
            subject.learn(stream(index))
        found.append(snapshot(subject.model))
    return checkpoint.same(*found)


def running_statistics(method):
    """Those of a batch normalisation behind dropout, after an experience and one step of the next."""
    subject = learner(method, norm_net(), epochs=1)
    torch.manual_seed(3)
    subject.learn(opposed(0))
    next(iter(subject.steps(opposed(1))))
    return {name: value.clone() for name, value in subject.model[2].named_buffers()}


def assert_end_leaves_no_trace(method):
    """Of an end that estimates: it runs in eval mode, and changes nothing but the method."""
    model = norm_net()
    for seed in range(3):
        model(everything(experience(seed).train)["x"] + 1)
    model[2].eval()  # frozen on purpose
    before, modes, generator = snapshot(model), [m.training for m in model.modules()], torch.get_rng_state()
    seen = []

    def watching(inner, batch):
        seen.append([module.training for module in model.modules()])
        return classify(inner, batch)

    method.end(model, experience(), watching)
    assert seen
    assert not any(any(each) for each in seen)
    assert checkpoint.same(before, snapshot(model))
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(generator, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())


def rows_looked_at(method):
    """The numbers of different rows that an end runs the model on, but for single ones that try the model out."""
    seen = []

    def watching(model, batch):
        seen.append(batch["x"])
        return classify(model, batch)

    method.end(net(), experience(), watching)
    return {len(x.unique(dim=0)) for x in seen if len(x) > 3}


def weighted_square(model, importance, anchor):
    """sum_i importance_i (w_i - anchor_i)^2."""
    return sum((importance[name] * (weight - anchor[name]) ** 2).sum() for name, weight in model.named_parameters())


def contributions(model, batch, optimizer, *, strength, importance, anchor, clip):
    """Takes a step on loss and penalty: what each weight took off the loss alone, to first order."""
    named = dict(model.named_parameters())
    task = torch.autograd.grad(classify(model, batch).loss, list(named.values()))
    optimizer.zero_grad()
    (classify(model, batch).loss + strength * weighted_square(model, importance, anchor)).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    before = weights(model)
    optimizer.step()
    return {n: -g * (w.detach() - before[n]) for (n, w), g in zip(named.items(), task, strict=True)}
