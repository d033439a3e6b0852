"""Protocols on digits of 8x8 pixels: what is learned arrives as it should, and scores are taken after the last step."""

from dataclasses import replace

import pytest
import torch
from bench.tiny import digits

from everlearn import Learner
from everlearn.bench.arrivals import arrive
from everlearn.bench.counted import Counted
from everlearn.bench.observed import Observed
from everlearn.bench.prequential import Prequential
from everlearn.bench.trained import Trained
from everlearn.methods.composition import build
from everlearn.streams.feed import Record

SPLIT = Trained("a paper", "split", ("class-IL", "task-IL"), (32,), lr=0.1, batch_size=10)
TASK = replace(SPLIT, arrival="split by task", scores=("task-IL",))
DOMAIN = replace(SPLIT, arrival="split by domain", scores=("domain-IL",))
PERMUTED = replace(SPLIT, arrival="permuted", scores=("domain-IL", "forgetting"), domains=3)
ER = "er:memory=200,keep=reservoir,count=10"


def scored(protocol, method="naive", seed=0):
    return protocol.scored(method, seed, *digits())


def test_fine_tuning_forgets_in_class_il_and_replay_and_joint_training_do_not():
    naive, replay, bound = scored(SPLIT), scored(SPLIT, ER), scored(replace(SPLIT, joint=True, epochs=3))
    assert naive["class-IL"] < 23
    assert naive["class-IL"] + 20 < replay["class-IL"] < bound["class-IL"]
    assert bound["class-IL"] > 85
    for values in (naive, replay, bound):
        assert values["task-IL"] > values["class-IL"]


@pytest.mark.parametrize("protocol", [SPLIT, TASK, DOMAIN, PERMUTED, replace(PERMUTED, arrival="rotated")])
def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(protocol):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = scored(protocol, ER)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert scored(protocol, ER) == first
    assert scored(protocol, ER, seed=1) != first
    assert set(first) == set(protocol.scores)


def test_permuted_by_task_is_permuted_and_says_which_permutation_a_row_has():
    plain, named = (arrive(each, *digits(), 0, domains=3, rows=50) for each in ("permuted", "permuted by task"))
    for one, other in zip(plain, named, strict=True):
        for part in ("train", "test"):
            rows, told = (vars(each)[part].take(torch.arange(20)) for each in (one, other))
            assert told.pop("task").eq(one.index).all()
            assert all(rows[name].equal(told[name]) for name in ("x", "y"))
        assert other.task == one.index
    values = scored(replace(PERMUTED, arrival="permuted by task"), "pnn")
    assert values["forgetting"] == 0
    assert values["domain-IL"] > scored(PERMUTED)["domain-IL"]


def test_two_methods_with_one_seed_begin_with_one_net_and_one_order(monkeypatch):
    seen = {}

    def spy(self, experience):
        first = next(iter(self.model.parameters())).detach().clone()
        seen.setdefault(repr(type(self.method)), []).append((first, experience.train.take(torch.arange(5))["x"]))
        yield from ()

    monkeypatch.setattr(Learner, "steps", spy)
    scored(SPLIT)
    scored(SPLIT, ER)
    one, other = seen.values()
    assert all(a.equal(b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_steps_take_the_place_of_epochs(monkeypatch):
    places = []
    steps = Learner.steps

    def spy(self, experience):
        for step in steps(self, experience):
            places.append((step.experience, step.place))
            yield step

    monkeypatch.setattr(Learner, "steps", spy)
    scored(replace(TASK, steps=70, batch_size=32))
    assert [max(place for each, place in places if each == e) for e in range(5)] == [70] * 5


def test_no_score_is_taken_before_the_last_step_unless_forgetting_is_asked_for(monkeypatch):
    asked = []
    evaluate = Learner.evaluate

    def spy(self, rows, **options):
        asked.append(self.experience)
        return evaluate(self, rows, **options)

    monkeypatch.setattr(Learner, "evaluate", spy)
    scored(SPLIT)
    assert set(asked) == {5}
    asked.clear()
    values = scored(PERMUTED)
    assert asked == [1, 2, 2, 3, 3, 3]
    assert values["forgetting"] > 0


def test_rows_may_be_fewer_and_are_then_drawn_at_random():
    train, test = digits()
    few = arrive("split", train, test, 0, domains=0, rows=100)
    assert [len(each.train) for each in few] == [100] * 5
    assert [len(each.test) for each in few] == [len(each.test) for each in arrive("split", train, test, 0, domains=0)]
    other = arrive("split", train, test, 1, domains=0, rows=100)
    assert not few[0].train.take(torch.arange(100))["x"].equal(other[0].train.take(torch.arange(100))["x"])


@pytest.mark.parametrize(("arrival", "labels"), [("split by task", 2), ("split by domain", 2), ("split by class", 10)])
def test_split_by_deals_all_digits_out_in_pairs_of_an_order_of_the_seed(arrival, labels):
    train, test = digits()
    orders = set()
    for seed in range(4):
        stream = arrive(arrival, train, test, seed, domains=0)
        assert sum(len(each.train) for each in stream) == len(train)
        y = torch.cat([each.train.take(torch.arange(len(each.train)))["y"] for each in stream])
        assert sorted(set(y.tolist())) == list(range(labels))
        orders.add(tuple(len(each.train) for each in stream))
    assert len(orders) == 4


def test_all_that_a_method_draws_follows_from_the_seed():
    assert build("gdumb:memory=20,epochs=1", seed=5).seed == 5
    assert build("gdumb:memory=20,epochs=1,seed=7", seed=5).seed == 7
    chain = build("er:memory=20+lwf", seed=5).methods
    assert chain[0].memory.seed == 5
    ranpac = replace(Counted("a paper"), source="another")
    assert scored(ranpac, "ranpac:M=50") != scored(ranpac, "ranpac:M=50", seed=1)


def test_what_random_guessing_gives():
    assert SPLIT.chance == {"class-IL": 10.0, "task-IL": 50.0}
    assert (TASK.chance, DOMAIN.chance) == ({"task-IL": 50.0}, {"domain-IL": 50.0})
    assert PERMUTED.chance == {"domain-IL": 10.0}


def test_heads_in_closed_form_do_not_forget():
    accuracy = scored(Counted("a paper"), "ncm")["accuracy"]
    train, test = digits()
    x, y = (train.column(name) for name in ("x", "y"))
    means = torch.stack([x[y == digit].double().flatten(1).mean(0) for digit in range(10)])
    nearest = torch.cdist(test.column("x").double().flatten(1), means).argmin(1)
    assert accuracy == pytest.approx(100 * float((nearest == test.column("y")).double().mean()), abs=1e-9)


def test_a_stream_without_borders_is_observed_to_its_end():
    protocol = Observed("a paper", lr=0.1, batch_size=8, hidden=(32,))
    naive, replay = (scored(protocol, method)["accuracy"] for method in ("naive", ER))
    assert naive < replay - 10
    assert scored(protocol)["accuracy"] == naive


# -- the exact one --------------------------------------------------------------------------------------------


def by_hand(x, y, lr, intercept_lr):
    """Right answers of standardised logistic regression, with running sums of its own."""
    weight, bias, right = torch.zeros(x.shape[1], dtype=torch.float64), 0.0, 0
    for i in range(len(y)):
        past, now = x[:i], x[: i + 1]

        def scaled(row, seen):
            if not len(seen):
                return torch.zeros_like(row)
            spread = seen.std(0, unbiased=False)
            return torch.where(spread > 0, (row - seen.mean(0)) / spread, 0.0)

        right += bool((scaled(x[i], past) @ weight + bias > 0) == (y[i] > 0))
        after = scaled(x[i], now)
        error = float(torch.sigmoid(after @ weight + bias) - y[i])
        weight, bias = weight - lr * error * after, bias - intercept_lr * error
    return right


def test_the_count_is_that_of_the_recipe_by_hand(monkeypatch):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64, generator=random) * torch.tensor([1.0, 5.0, 0.0]) + 2
    y = ((x[:, 0] + torch.randn(200, generator=random)) > 2).double()
    records = [
        Record(str(i), dict(zip("abc", row, strict=True)), str(bool(label)))
        for i, (row, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
    ]
    monkeypatch.setattr("everlearn.bench.prequential._records", lambda _: records)
    values = Prequential("a paper", "any").measure("", 0, None)
    assert values == {"right": by_hand(x, y, 0.005, 0.01)}


def test_the_published_count_comes_out_exactly(tmp_path):
    pytest.importorskip("river", reason="the streams come with river")
    assert Prequential("river", "Phishing").measure("", 0, tmp_path) == {"right": 1109}
