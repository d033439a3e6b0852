"""Dark replay remembers what was answered when a row came, before the step that learned from it."""

from functools import partial

import pytest
import torch
from methods.small import experience, net, shake
from torch.nn import functional as F

from everlearn.batch import UNLABELED
from everlearn.data import view
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import DER, DERpp, GrowHead
from everlearn.methods.der import darkness
from everlearn.models import Net, grow
from everlearn.objective import Viewed, classify

SGD = partial(torch.optim.SGD, lr=0.5)


def rows(start, count=8):
    random = torch.Generator().manual_seed(start)
    ids = torch.arange(start, start + count)
    return {"x": torch.randn(count, 5, generator=random), "y": ids % 4, "id": ids}


class Drawing(Memory):
    """A memory that notes what it gave."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.drawn = []

    def sample(self, count):
        self.drawn.append(super().sample(count))
        return self.drawn[-1]


@pytest.mark.parametrize("make", [DER, DERpp])
def test_the_remembered_logits_are_those_of_the_steps_forward_before_its_update(make):
    learner = Learner(net(), make(Memory(100)), optimizer=SGD)
    answered = {}
    for k in range(3):
        batch = rows(8 * k)
        with torch.no_grad():
            answered |= dict(zip(batch["id"].tolist(), learner.model(batch["x"]), strict=True))
        learner.observe(batch)
        assert not torch.allclose(learner.model(batch["x"])[0], answered[8 * k])
    kept = learner.method.memory.rows()
    assert len(kept["id"]) == 24
    for row, logits in zip(kept["id"].tolist(), kept["logits"], strict=True):
        torch.testing.assert_close(logits, answered[row])


@pytest.mark.parametrize("make", [DER, DERpp])
def test_a_row_that_comes_again_gets_the_answer_of_now(make):
    method, model = make(Memory(100)), net()
    batch = rows(0) | {"id": torch.arange(8)}
    method(model, batch, classify)
    before = method.memory.rows()["logits"].clone()
    shake(model)
    method(model, batch, classify)
    kept = method.memory.rows()
    assert len(method.memory) == 8
    assert not torch.equal(kept["logits"], before)
    torch.testing.assert_close(kept["logits"], model(batch["x"])[kept["id"]].detach())


def test_der_is_the_mean_squared_distance_over_rows_and_logits():
    method, model = DER(Drawing(100), alpha=0.7, count=6), net()
    method(model, rows(0), classify)
    shake(model)
    output = method(model, rows(8), classify)
    old = method.memory.drawn[-1]
    expected = classify(model, rows(8)).loss + 0.7 * F.mse_loss(model(old["x"]), old["logits"])
    torch.testing.assert_close(output.loss, expected)
    assert len(old["x"]) == 6
    assert len(output.logits) == 8


def test_derpp_learns_the_labels_of_an_independent_second_draw():
    method, model = DERpp(Drawing(1000), alpha=0.7, beta=0.4, count=6), net()
    method(model, rows(0, 100), classify)
    shake(model)
    output = method(model, rows(200), classify)
    dark, light = method.memory.drawn[-2:]
    expected = classify(model, rows(200)).loss + 0.7 * F.mse_loss(model(dark["x"]), dark["logits"])
    expected = expected + 0.4 * F.cross_entropy(model(light["x"]), light["y"])
    torch.testing.assert_close(output.loss, expected)
    assert dark["id"].tolist() != light["id"].tolist()
    assert len(method.memory.drawn) == 4


def test_the_two_draws_are_different_over_many_steps():
    method, model = DERpp(Drawing(1000), count=10), net()
    for k in range(30):
        method(model, rows(20 * k, 20), classify)
    pairs = list(zip(method.memory.drawn[::2], method.memory.drawn[1::2], strict=True))[5:]
    shared = [len({*a["id"].tolist()} & {*b["id"].tolist()}) for a, b in pairs]
    assert sum(shared) / len(shared) < 3  # of 10, where 100 to 600 were there to draw from


def test_nothing_is_added_while_the_memory_is_empty():
    model = net()
    for method in (DER(Memory(10)), DERpp(Memory(10))):
        assert torch.equal(method(model, rows(0), classify).loss, classify(model, rows(0)).loss)
        assert len(method.memory) == 8


def test_only_outputs_that_were_there_are_compared():
    method, model = DER(Drawing(100), alpha=1.0, count=100), net(2)
    method(model, rows(0) | {"y": torch.zeros(8, dtype=torch.long)}, classify)
    grow(model, 4)
    shake(model)
    method(model, rows(8), classify)
    shake(model, seed=1)
    output = method(model, rows(16), classify)
    old = method.memory.drawn[-1]
    early = old["id"] < 8
    now = model(old["x"])
    squares = torch.cat(
        [(now[early][:, :2] - old["logits"][early][:, :2]).flatten(), (now - old["logits"])[~early].flatten()]
    )
    torch.testing.assert_close(output.loss, classify(model, rows(16)).loss + (squares**2).mean())
    for name, g in zip("wb", torch.autograd.grad(output.loss, list(model[3].parameters())), strict=True):
        assert g.isfinite().all(), name


def test_outputs_beyond_the_remembered_ones_get_no_gradient():
    logits = torch.randn(3, 5, requires_grad=True)
    remembered = torch.randn(3, 4)
    remembered[1, 2:] = torch.nan
    (g,) = torch.autograd.grad(darkness(logits, remembered), logits)
    assert not g[:, 4].any()
    assert not g[1, 2:].any()
    assert g[0, :4].abs().min() > 0


@pytest.mark.parametrize("make", [DER, DERpp])
def test_it_learns_with_a_growing_head(make):
    learner = Learner(net(2), Chain(GrowHead(), make(Memory(30), count=8)), optimizer=SGD, batch_size=10)
    for index, classes in enumerate([(0, 1), (0, 1, 2), (0, 1, 2, 3, 4)]):
        learner.learn(experience(index, classes=classes))
    assert learner.method.methods[1].memory.rows()["logits"].shape == (30, 5)


@pytest.mark.parametrize("make", [DER, DERpp])
def test_rows_are_kept_raw_and_augmented_anew_at_each_draw(make):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=random)
    batch = {"x": x, "y": torch.arange(12) % 4, "id": torch.arange(12)}
    seen = []

    def watching(model, batch):
        seen.append(batch["x"])
        return classify(model, batch)

    torch.manual_seed(0)
    method, model, look = make(Memory(100), count=12), Net(4, channels=1, size=8), view("unit", ["crop:2", "flip"])
    for key in (1, 2):
        method(model, batch, Viewed(watching, look, key))
    kept = method.memory.rows()
    assert kept["x"].dtype == torch.uint8
    assert torch.equal(kept["x"], x[kept["id"]])
    with torch.no_grad():
        latest = model(look(batch, 2)["x"])
    torch.testing.assert_close(kept["logits"], latest[kept["id"]])
    new, old = seen[1], seen[2]  # of the second step
    assert new.dtype == torch.float32
    assert not torch.equal(new, seen[0])
    # Within a step a row looks the same wherever it is seen.
    assert sorted(new.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(old.sum((1, 2, 3)).tolist()), rel=1e-5)


def test_old_rows_without_a_label_are_remembered_for_their_answers_only():
    learner = Learner(net(), DERpp(Memory(100), alpha=0.0, beta=1.0, count=8), optimizer=SGD)
    assert learner.observe(rows(0) | {"y": torch.full((8,), UNLABELED)}).loss is None
    plain = classify(learner.model, rows(8)).loss.detach()
    torch.testing.assert_close(learner.observe(rows(8)).loss, plain)
    assert len(learner.method.memory) == 16
