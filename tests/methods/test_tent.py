"""TENT: by hand, and with batches that start anew."""

from functools import partial
from itertools import pairwise

import torch
from methods.small import everything, rows
from methods.targets import batch_norms, learner, source, target
from torch.distributions import Categorical

from everlearn import checkpoint
from everlearn.methods import TENT
from everlearn.models import snapshot
from everlearn.models.spread import entropies

PLAIN = partial(torch.optim.SGD, lr=0.1)


def still(model):
    """In train mode, without dropout."""
    model.train()
    model[4].eval()
    return model


def test_the_entropy_is_that_of_a_categorical_distribution():
    logits = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(entropies(logits), Categorical(logits=logits).entropy())
    assert entropies(torch.zeros(2, 3, 4)).shape == (6,), "tokens are rows"


def test_a_step_goes_down_the_entropy_of_answers_by_batch_statistics():
    subject, other = learner(TENT(), optimizer=PLAIN), still(batch_norms())
    x = everything(rows(12))["x"]
    loss = Categorical(logits=other(x)).entropy().mean()
    norms = [w for place in (2, 7) for w in other[place].parameters()]
    slopes = torch.autograd.grad(loss, norms)
    output = subject.observe({"x": x})
    torch.testing.assert_close(output.loss, loss.detach())
    mine = [w for place in (2, 7) for w in subject.model[place].parameters()]
    for now, before, slope in zip(mine, norms, slopes, strict=True):
        torch.testing.assert_close(now.detach(), before.detach() - 0.1 * slope)


def test_it_becomes_surer_of_the_rows_that_it_saw():
    subject = learner(TENT(alarm=0.0), optimizer=PLAIN)
    x = everything(target().train)["x"]
    losses = [float(subject.observe({"x": x}).loss) for _ in range(60)]
    assert all(after < before for before, after in pairwise(losses))


def test_episodic_is_to_start_from_w0_with_each_batch():
    x = everything(target().train)["x"].split(8)
    ends = []
    for parts in (x[:1], x):
        subject = learner(TENT(episodic=True), optimizer=PLAIN)
        torch.manual_seed(1)
        subject.learn(source())
        for part in reversed(parts):
            subject.observe({"x": part})
        ends.append(snapshot(subject.model))
    assert checkpoint.same(*ends)
    assert not torch.equal(ends[0]["2.weight"], subject.method.source["2.weight"]), (
        "until the next batch, it has learned"
    )
