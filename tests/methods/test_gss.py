"""Rows are kept whose gradients point in other directions than those of the rows that are there."""

import copy
from functools import partial

import pytest
import torch
from methods.small import experience, net, norm_net, shake
from torch.nn import functional as F

from everlearn.data import view
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.memory.diverse import Diverse
from everlearn.method import Chain
from everlearn.methods import GrowHead, Naive, Replay
from everlearn.methods.composition import build
from everlearn.methods.gss import GSS
from everlearn.models import MultiHead
from everlearn.models.alike import alike
from everlearn.objective import Output, Viewed, classify, classify_by_task, regress

SGD = partial(torch.optim.SGD, lr=0.1)


def rows(start, count=8, classes=4):
    random = torch.Generator().manual_seed(start)
    ids = torch.arange(start, start + count)
    return {"x": torch.randn(count, 5, generator=random), "y": ids % classes, "id": ids}


def filled(count=6, n=10, kept=60, **options):
    method = GSS(Diverse(kept, 3), count, n=n, **options)
    method.memory.add(rows(1000, kept) | {"score": torch.ones(kept)})
    return method


def gradient(model, x, y):
    """That of the mean loss of rows, in eval mode, by one backward pass."""
    model = copy.deepcopy(model).eval()
    loss = F.cross_entropy(model(x), y)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("make", [net, norm_net])
def test_the_score_is_one_more_than_the_largest_cosine_with_the_gradients_of_n_random_batches(make, size):
    method, model, batch = filled(n=7, rows=size), make(), rows(0)
    shake(model)
    old = copy.deepcopy(method.memory).sample(7 * size)
    scores = method.scores(model, batch, classify)
    theirs = [gradient(model, x, y) for x, y in zip(old["x"].split(size), old["y"].split(size), strict=True)]
    assert len(theirs) == 7
    expected = [
        1 + max(F.cosine_similarity(gradient(model, x[None], y[None]), g, dim=0).item() for g in theirs)
        for x, y in zip(batch["x"], batch["y"], strict=True)
    ]
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert scores.min() < scores.max() - 0.1


@pytest.mark.parametrize(("kept", "groups"), [(3, 1), (4, 1), (11, 2), (60, 5)])
def test_a_small_memory_makes_fewer_batches(kept, groups, monkeypatch):
    method, seen = filled(n=5, rows=4, kept=kept), []
    monkeypatch.setattr("everlearn.methods.gss.alike", lambda *given: seen.append(given[2:]) or torch.zeros(8, 1))
    method.scores(net(), rows(0), classify)
    [(old, _, size)] = seen
    assert len(old["y"]) == groups * size == min(kept, groups * 4)


def test_a_row_is_as_much_like_itself_as_can_be_and_at_right_angles_to_one_without_a_gradient():
    model, batch = net(), rows(0, 3)

    def loss(model, row):
        return F.cross_entropy(model(row["x"]), row["y"]) * (row["id"] != 2).float()[0]

    cosines = alike(model, batch, batch, loss)
    torch.testing.assert_close(cosines.diagonal()[:2], torch.ones(2))
    assert not cosines[2].any()
    assert not cosines[:, 2].any()
    torch.testing.assert_close(cosines, cosines.T)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_in_pieces_and_one_at_a_time_are_those_of_all_at_once(monkeypatch, size):
    def loss(model, rows):
        return F.cross_entropy(model(rows["x"]), rows["y"])

    def listed(model, rows):
        return loss(model, rows | {"x": torch.stack(rows["x"])})

    def deciding(model, rows):
        return loss(model, rows) if rows["x"].sum() < 1e9 else torch.zeros(())

    model, batch, others = norm_net(), rows(0), rows(100, 6)
    whole = alike(model, batch, others, loss, size)
    assert whole.shape == (8, 6 // size)
    slow = alike(model, *(part | {"x": list(part["x"])} for part in (batch, others)), listed, size)
    torch.testing.assert_close(slow, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alike(model, batch, others, deciding, size), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("everlearn.models.alike._MOST", 1)
    torch.testing.assert_close(alike(model, batch, others, loss, size), whole, rtol=1e-4, atol=1e-5)


def test_new_rows_are_kept_that_point_elsewhere_than_the_memory():
    """The memory knows two classes of four; rows of the others push against it, and those that are alike give way."""
    model, memory = net(), Diverse(40)
    old = rows(0, 40, 2)
    memory.add(old | {"score": torch.linspace(1.5, 1.9, 40)})
    method = GSS(memory, 8, n=4, rows=10)
    for weight in model.parameters():
        weight.data.mul_(0.1)  # undecided: the gradient of a row is about that of its class
    others = rows(100, 40) | {"y": 2 + torch.arange(40) % 2}
    theirs, ours = method.scores(model, others, classify), method.scores(model, rows(200, 40, 2), classify)
    assert theirs.mean() < ours.mean() - 0.2
    method.keep(model, others, classify)
    assert (memory.column("y") > 1).sum() > 5


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_scoring_leaves_no_trace_in_the_model(combine):
    method, model = filled(combine=combine), norm_net()
    model[4].eval()  # one module in a mode of its own
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random, weights = torch.get_rng_state(), list(map(id, model.parameters()))
    method.keep(model, rows(0), classify)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert modes == [module.training for module in model.modules()]
    assert weights == list(map(id, model.parameters()))
    assert torch.equal(random, torch.get_rng_state())
    output = method(model, rows(8), classify)
    assert all(weight.grad is None for weight in model.parameters())
    assert int(model[2].num_batches_tracked) == (1 if combine == "concat" else 2)
    output.loss.backward()


def test_the_loss_is_that_of_replay_from_its_memory_and_no_objective_sees_a_score():
    method, model, batch, seen = filled(combine="sum"), net(), rows(0), []

    def watching(model, batch):
        assert "score" not in batch
        if "y" in batch:
            seen.append(batch)
        return classify(model, batch)

    output = method(model, batch, watching)
    assert [len(each["y"]) for each in seen] == [8, 6]
    torch.testing.assert_close(output.loss, sum(classify(model, each).loss for each in seen))
    assert set(seen[1]) == {"x", "y", "id"}


def test_each_row_is_offered_once_and_stored_once_over_epochs():
    learner = Learner(net(), GSS(Diverse(15), 4), optimizer=SGD, batch_size=5, epochs=6)
    learner.learn(experience())
    memory = learner.method.memory
    assert memory.seen == 20
    assert len(memory.ids.unique()) == len(memory) == 15
    learner.observe(rows(100))
    learner.observe(rows(100))
    assert memory.seen == 36
    assert len(memory.ids.unique()) == len(memory) == 15


def test_rows_are_scored_as_they_are_without_augmentation():
    method, model = filled(), net()
    seen = []

    def look(batch, key):
        seen.append((key, model.training))
        return batch

    method(model, rows(0), Viewed(classify, look, 7))
    assert {key for key, training in seen if training} == {7}
    assert {key for key, training in seen if not training} == {None}


def test_it_works_with_the_views_of_a_learner_and_their_augmentation():
    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(16, 4)

        def forward(self, x):
            return self.head(x.flatten(1))

    images = torch.randint(0, 255, (20, 1, 4, 4), dtype=torch.uint8)
    learner = Learner(Image(), GSS(Diverse(8), 4), optimizer=SGD, batch_size=5, view=view(augment=["flip"]))
    data = experience().train
    learner.observe({"x": images, "y": data.column("y")})
    learner.observe({"x": images, "y": data.column("y")})
    assert len(learner.method.memory) == 8


def test_it_works_without_gradients_as_remembering_does():
    learner = Learner(net(), GSS(Diverse(12), 4), optimizer=SGD, batch_size=5)
    learner.remember(experience())
    assert len(learner.method.memory) == 12


def test_rows_without_a_label_are_not_kept():
    method, model = filled(kept=10), net()
    mixed = rows(0) | {"y": torch.tensor([-100, 1, -100, 2, 3, -100, 0, 1])}
    before = method.memory.seen
    method.keep(model, mixed, classify)
    assert method.memory.seen == before + 5
    method.keep(model, {"x": torch.zeros(3, 5)}, classify)
    method.keep(model, rows(0) | {"y": torch.full((8,), -100)}, classify)
    assert method.memory.seen == before + 5


def test_a_batch_without_a_loss_is_left_alone():
    def mute(model, batch):
        return Output(None, classify(model, batch).logits)

    assert filled()(net(), rows(0), mute).loss is None


def test_with_heads_for_tasks_each_row_is_scored_by_its_own():
    model = MultiHead(torch.nn.Linear(5, 6), 6, 2, 2)
    method, old, new = GSS(Diverse(40), 4, n=40, rows=1), rows(100, 40, 2), rows(0, 8, 2)
    old["task"], new["task"] = torch.zeros(40).long(), torch.ones(8).long()
    method.memory.add(old | {"score": torch.ones(40)})
    theirs = alike(model, new, old, lambda model, rows: classify_by_task(model, rows).loss)
    torch.testing.assert_close(method.scores(model, new, classify_by_task), 1 + theirs.amax(1))


def test_with_a_growing_head_it_learns():
    learner = Learner(net(2), Chain(GrowHead(), GSS(Diverse(30), 4)), optimizer=SGD, batch_size=5)
    learner.learn(experience(0, classes=(0, 1)))
    learner.learn(experience(1, classes=(0, 1, 2, 3)))
    assert learner.method.methods[1].memory.seen == 40


def test_with_no_old_rows_asked_for_it_is_fine_tuning_bit_for_bit():
    weights = []
    for method in (Naive(), GSS(Diverse(10), count=0)):
        learner = Learner(norm_net(), method, optimizer=SGD, batch_size=5)
        for index in range(2):
            torch.manual_seed(index)
            learner.learn(experience(index))
        weights.append([value.clone() for value in learner.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_typed_it_has_the_memory_that_goes_with_it():
    method = build("gss:memory=50,n=4,count=3,combine=sum", seed=2)
    assert isinstance(method.memory, Diverse)
    assert (method.memory.capacity, method.memory.seed, method.n, method.count) == (50, 2, 4, 3)
    with pytest.raises(ValueError, match="keep"):
        build("gss:memory=50,keep=ring")


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"gss says which rows are kept, but a Memory does so itself; take Diverse"):
        GSS(Memory(10))
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        GSS(Diverse(10), n=0)
    with pytest.raises(ValueError, match="rows must be a whole number of at least 1"):
        GSS(Diverse(10), rows=0)
    method, values = GSS(Diverse(10)), rows(100) | {"y": torch.zeros(8)}
    method(net(1), values, regress)
    with pytest.raises(ValueError, match=r"gss classifies.*float32 labels; take er"):
        method(net(1), values, regress)
    method = filled()
    with pytest.raises(ValueError, match=r"gss classifies.*no column 'y'; take er"):
        method.keep(net(), {"x": torch.zeros(3, 5), "labels": torch.zeros(3).long()}, classify)


def test_a_class_of_the_past_stays_in_the_memory_while_another_fills_the_stream():
    """A uniform sample gives each class its share of the stream, however little that is."""
    random = torch.Generator().manual_seed(0)
    y = torch.cat([torch.arange(60) % 2, 2 + torch.arange(1500) % 2])
    x = torch.randn(1560, 5, generator=random) + 2 * torch.eye(5)[y]
    shares = []
    for method in (GSS(Diverse(60), 10), Replay(Memory(60), 10)):
        learner = Learner(net(), method, optimizer=SGD)
        for part in torch.arange(1560).split(10):
            learner.observe({"x": x[part], "y": y[part], "id": part})
        shares.append((method.memory.column("y") < 2).float().mean().item())
    assert shares[0] > 3 * shares[1]
