"""Replay learns from the rows of before, each kept once, together with the new ones."""

from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net

from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.memory import Balanced, Memory
from everlearn.method import Chain
from everlearn.methods import EWC, Replay
from everlearn.models import Net
from everlearn.objective import Output, classify
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


@pytest.mark.parametrize(("combine", "new", "old"), [("sum", 1, 1), ("1/k", 1 / 3, 2 / 3)])
def test_parts_have_a_mean_each_and_the_weights_that_were_asked_for(combine, new, old):
    method, model = Replay(Memory(100), 5, combine), net()
    for index in range(3):
        method.begin(model, experience(index), classify)
    method.memory.add(rows(0))
    seen = []

    def watching(model, batch):
        seen.append(batch)
        return classify(model, batch)

    output = method(model, rows(8), watching)
    parts = [classify(model, batch).loss for batch in seen]
    assert [len(batch["x"]) for batch in seen] == [8, 5]
    torch.testing.assert_close(output.loss, new * parts[0] + old * parts[1])
    assert len(output.logits) == 8


def test_with_as_many_old_rows_as_new_ones_concat_is_half_the_sum():
    losses, model = {}, net()
    for combine in ("concat", "sum"):
        method = Replay(Memory(100), 8, combine)
        method.memory.add(rows(0, 40))
        losses[combine] = method(model, rows(100), classify).loss
    torch.testing.assert_close(losses["concat"], losses["sum"] / 2)


def test_in_the_first_experience_1_over_k_is_fine_tuning_and_leaves_no_trace_of_old_rows():
    method, model, plain = Replay(Memory(100), 8, "1/k"), norm_net(), norm_net()
    method.begin(model, experience(), classify)
    method.memory.add(rows(0))
    for each in (model, plain):
        for module in each.modules():
            module.p = 0.0  # no dropout
    assert torch.equal(method(model, rows(8), classify).loss, classify(plain, rows(8)).loss)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), plain.buffers(), strict=True))


def test_apart_each_part_is_normalised_by_its_own_statistics_and_together_by_those_of_both():
    counted = {}
    for combine in ("concat", "sum"):
        method, model = Replay(Memory(100), 8, combine), norm_net()
        method.memory.add(rows(0))
        method(model, rows(8), classify)
        counted[combine] = int(model[2].num_batches_tracked)
    assert counted == {"concat": 1, "sum": 2}


@pytest.mark.parametrize("combine", ["sum", "1/k"])
def test_apart_what_follows_in_the_chain_sees_new_rows_only_and_counts_once(combine):
    lengths = []

    class Watch(EWC):
        def loss(self, model, batch, objective, rest):
            lengths.append(len(batch["y"]))
            return rest(model, batch)

    chain = Chain(Replay(Memory(100), 5, combine), Watch())
    chain.begin(net(), experience(), classify)
    chain.begin(net(), experience(), classify)
    for start in (0, 8):
        chain(net(), rows(start), classify)
    assert lengths == [8, 8]


def test_k_is_counted_by_experiences_and_kept_in_the_state():
    method = Replay(Memory(10), combine="1/k")
    for index in range(4):
        method.begin(net(), experience(index), classify)
    other = Replay(Memory(10), combine="1/k")
    other.load_state_dict(method.state_dict())
    assert other.experiences == 4


def test_a_batch_without_a_loss_is_not_learned_whatever_old_rows_there_are():
    def mute(model, batch):
        return Output(None, classify(model, batch).logits)

    method = Replay(Memory(100), 8, "sum")
    method.memory.add(rows(0))
    assert method(net(), rows(8), mute).loss is None


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="combine must be one of concat, sum, 1/k, but is 'mean'"):
        Replay(Memory(10), combine="mean")
    method = Replay(Memory(10), combine="1/k")
    with pytest.raises(ValueError, match=r'counts experiences, but none has begun.*"sum"'):
        method(net(), rows(0), classify)
