"""Replay learns from the rows of before, each kept once, together with the new ones."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience, net

from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.methods import Replay
from everlearn.models import Net
from everlearn.objective import classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def seen_by(method, batches, model=None):
    """The batches that reached the objective."""
    seen = []

    def watching(model, batch):
        seen.append(batch)
        return classify(model, batch)

    model = model or net()
    for batch in batches:
        method(model, batch, watching)
    return seen


def rows(start, count=8):
    ids = torch.arange(start, start + count)
    return {"x": ids[:, None] * torch.ones(5), "y": ids % 4, "id": ids}


def test_it_samples_before_it_adds_so_that_no_row_meets_itself():
    seen = seen_by(Replay(Memory(1000), count=100), [rows(8 * k) for k in range(4)])
    for k, batch in enumerate(seen):
        assert len(batch["x"]) == 8 * (k + 1)
        assert batch["id"].tolist()[:8] == list(range(8 * k, 8 * k + 8))
        assert sorted(batch["id"].tolist()[8:]) == list(range(8 * k))


def test_the_loss_is_one_mean_over_new_and_old_rows():
    method, model = Replay(Memory(100), count=5), net()
    method(model, rows(0), classify)
    seen = []

    def watching(model, batch):
        seen.append(batch)
        return classify(model, batch)

    output = method(model, rows(8), watching)
    torch.testing.assert_close(output.loss, classify(model, seen[0]).loss)
    assert len(seen) == 1
    assert len(output.logits) == len(seen[0]["x"]) == 13


def test_count_is_the_number_of_old_rows_as_far_as_there_are():
    seen = seen_by(Replay(Memory(100), count=5), [rows(0, 3), rows(3, 3), rows(6, 3)])
    assert [len(batch["x"]) for batch in seen] == [3, 6, 8]
    assert len(set(seen[2]["id"].tolist()[3:])) == 5


def test_a_row_that_comes_again_in_a_later_epoch_is_kept_once():
    learner = Learner(net(), Replay(Memory(12), count=4), optimizer=SGD, batch_size=6, epochs=5)
    learner.learn(experience(0))
    memory = learner.method.memory
    assert memory.seen == 100
    assert len(memory.ids.unique()) == len(memory) == 12
    learner.learn(experience(1))
    # A uniform sample of 40 distinct rows: the second experience has its share, and not five times its share.
    first = (memory.ids < 1 << 40).sum().item()
    assert len(memory.ids.unique()) == 12
    assert 2 <= first <= 10


def test_what_is_kept_does_not_depend_on_the_number_of_epochs():
    kept = []
    for epochs in (1, 4):
        learner = Learner(net(), Replay(Memory(12), count=4), optimizer=SGD, batch_size=6, epochs=epochs)
        learner.learn(experience(0))
        learner.learn(experience(1))
        kept.append(sorted(learner.method.memory.ids.tolist()))
    assert kept[0] == kept[1]


def test_a_balanced_memory_keeps_as_many_rows_of_each_class():
    learner = Learner(net(), Replay(Balanced(12), count=4), optimizer=SGD, batch_size=6)
    y = torch.tensor([0] * 60 + [1] * 10 + [2] * 10)
    data = Columns(x=torch.randn(80, 5), y=y)
    learner.learn(Experience(0, data, data, (0, 1, 2)))
    assert learner.method.memory.column("y").bincount().tolist() == [4, 4, 4]


def test_rows_are_kept_raw_and_seen_through_the_view():
    random = torch.Generator().manual_seed(0)
    x = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=random)
    data = Columns(x=x, y=torch.arange(12) % 4)
    method = Replay(Memory(100), count=6)
    torch.manual_seed(0)
    learner = Learner(
        Net(4, channels=1, size=8), method, optimizer=SGD, batch_size=6, view=view(((0.5,), (0.25,)), ["crop:2"])
    )
    learner.learn(Experience(0, data, data))
    kept = method.memory.rows()
    assert kept["x"].dtype == torch.uint8
    assert torch.equal(kept["x"], x[kept["id"]])


def test_the_batch_of_the_user_is_not_changed():
    batch = rows(8)
    before = {name: column.clone() for name, column in batch.items()}
    method = Replay(Memory(100))
    seen_by(method, [rows(0), batch])
    assert all(torch.equal(batch[name], column) for name, column in before.items())
    method.memory.rows()["x"].zero_()
    assert everything(method.memory)["x"].any()


def test_rows_that_the_objective_refuses_are_not_remembered():
    method, bad = Replay(Memory(100)), rows(8) | {"y": torch.full((8,), 9)}
    seen_by(method, [rows(0)])
    with pytest.raises(ValueError, match=r"labels go from"):
        method(net(), bad, classify)
    assert sorted(method.memory.ids.tolist()) == list(range(8))
