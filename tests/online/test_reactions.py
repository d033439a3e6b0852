"""Reactions: what they do to learning, by hand; what they leave as it was; and when a challenger may win."""

import random
from math import comb, log

import numpy as np
import pytest
import torch

from everlearn import checkpoint
from everlearn.memory import Memory
from everlearn.models.probing import refitted
from everlearn.online.challenge import Challenge
from everlearn.online.evidence import evidence
from everlearn.online.latest import Latest
from everlearn.online.making import make_online
from everlearn.online.reaction import raised
from everlearn.online.reactions import REACTIONS, Boost, Recent, Refresh, reactions
from everlearn.streams.feed import Record


def engine(**settings):
    return make_online(**{"model": "mlp:hidden=8", "optimizer": "sgd:lr=0.1,momentum=0.9", **settings})


def stream(count, seed=0, *, swapped=False, start=0):
    """Rows with labels, one by one."""
    draw = random.Random(seed)
    made = [Record(f"{start + i}", {"a": draw.gauss(0, 1), "b": draw.gauss(0, 1)}) for i in range(count)]
    return [(row, "yes" if (row.fields["a"] > 0) != swapped else "no") for row in made]


def learned(online, pairs, reaction=None, latest=None):
    latest = Latest(reaction.wants if reaction else 0) if latest is None else latest
    for row, label in pairs:
        if reaction:
            reaction.learn(online, [row], [label], latest, online.learn)
        else:
            online.learn([row], [label])
        latest.add([row], [label])
    return online


def rates(online):
    return [group["lr"] for group in online.learner.optimizer.param_groups]


# -- boost ----------------------------------------------------------------------------------------------------


def test_a_boost_is_that_many_steps_at_the_higher_rate_and_then_what_it_was():
    pairs, boost = stream(60), Boost(factor=3.0, steps=20)
    boosted, by_hand = learned(engine(), pairs[:20]), learned(engine(), pairs[:20])
    boost.begin(boosted, Latest(0))
    learned(boosted, pairs[20:], boost)
    (group,) = by_hand.learner.optimizer.param_groups
    group["lr"] = 0.1 * 3.0
    learned(by_hand, pairs[20:40])
    group["lr"] = 0.1
    learned(by_hand, pairs[40:])
    assert checkpoint.same(boosted.state_dict(), by_hand.state_dict())


def test_between_two_steps_the_rate_is_what_it_was_to_the_last_bit():
    online, boost = learned(engine(optimizer="adam:lr=0.0123"), stream(5)), Boost(factor=7.0, steps=3)
    seen = []

    def rest(records, labels):
        seen.append(rates(online))
        return online.learn(records, labels)

    for again in range(8):
        if again in (0, 2):
            boost.begin(online, Latest(0))  # the second time it goes on, and multiplies nothing
        boost.learn(online, *map(list, zip(*stream(1, again), strict=True)), Latest(0), rest)
        assert rates(online) == [0.0123]
    assert [rate for (rate,) in seen] == [0.0123 * 7.0] * 5 + [0.0123] * 3


def test_a_rate_is_put_back_after_an_error_and_the_step_does_not_count():
    online, boost = learned(engine(), stream(5)), Boost(steps=3)
    boost.begin(online, Latest(0))
    with pytest.raises(ValueError, match="labels"):
        boost.learn(online, [stream(1)[0][0]], [], Latest(0), online.learn)
    assert rates(online) == [0.1]
    assert boost.left == 3


def test_a_boost_goes_with_a_head_that_grows_meanwhile():
    online, boost = learned(engine(), stream(5)), Boost(factor=2.0, steps=4)
    boost.begin(online, Latest(0))
    learned(online, [(Record("n", {"a": 0.1, "b": 0.2, "c": 3.0}), "perhaps"), *stream(5, 1)], boost)
    assert set(rates(online)) == {0.1}
    assert online.encoder.classes.names == ("no", "yes", "perhaps") or len(online.encoder.classes) == 3


def test_several_groups_are_each_raised_by_the_factor():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.3}, {"params": weights[1:]}], lr=0.1)
    with raised(optimizer, 2.0):
        assert [group["lr"] for group in optimizer.param_groups] == [0.6, 0.2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.1]


# -- recent ---------------------------------------------------------------------------------------------------


def joined(reaction, pairs, latest, size=1):
    """What was learned beside each batch, by row id."""
    beside = []
    for place in range(0, len(pairs), size):
        records, labels = map(list, zip(*pairs[place : place + size], strict=True))

        def rest(all_records, all_labels, records=records, labels=labels):
            assert all_records[: len(records)] == records
            assert all_labels[: len(labels)] == labels
            beside.append([(row.id, label) for row, label in zip(all_records, all_labels, strict=True)][len(records) :])

        reaction.learn(None, records, labels, latest, rest)
        latest.add(records, labels)
    return beside


@pytest.mark.parametrize(("share", "size"), [(0.5, 1), (0.2, 1), (0.75, 3), (0.3, 4)])
def test_recent_rows_are_their_share_of_what_is_learned(share, size):
    recent, latest = Recent(share=share, rows=100, steps=1000), Latest(100)
    assert joined(recent, stream(50), latest, 5) == [[]] * 10
    recent.begin(None, latest)
    beside = joined(recent, stream(240, 1, start=50), latest, size)
    total = np.cumsum([len(rows) for rows in beside])
    wanted = np.arange(1, len(beside) + 1) * size * share / (1 - share)
    assert np.all(np.abs(total - wanted) < 1)


def test_no_row_is_older_than_the_drift_and_none_meets_itself():
    recent, latest = Recent(rows=30, steps=200, since=10), Latest(30)
    before, after = stream(50), stream(200, 1, start=50)
    joined(recent, before, latest)
    recent.begin(None, latest)
    labels = {row.id: label for row, label in before + after}
    drawn = set()
    for place, rows in enumerate(joined(recent, after, latest), 50):
        for name, label in rows:
            assert max(40, place - 30) <= int(name) < place
            assert labels[name] == label
            drawn.add(int(name))
    assert min(drawn) < 50
    assert joined(recent, stream(5, 2, start=250), latest) == [[]] * 5  # 200 steps are over


def test_a_corrected_row_is_drawn_with_its_new_label_even_beside_itself():
    recent, latest = Recent(share=0.9, rows=10, since=10), Latest(10)
    pairs = [(Record(str(place), {}), "wrong") for place in range(10)]
    latest.add(*map(list, zip(*pairs, strict=True)))
    recent.begin(None, latest)
    right = [(record, "right") for record, _ in pairs[:5]]
    now = dict.fromkeys(map(str, range(5)), "right") | dict.fromkeys(map(str, range(5, 10)), "wrong")
    for rows in joined(recent, right, latest, 5) + joined(recent, right, latest):
        assert rows
        assert all(label == now[name] for name, label in rows)
    assert len(latest) == latest.number == 10


def test_what_is_drawn_is_uniform_and_a_function_of_the_seed():
    def drawn(seed):
        recent, latest = Recent(rows=20, steps=5000, since=20, seed=seed), Latest(20)
        latest.add(*map(list, zip(*stream(20), strict=True)))
        recent.begin(None, latest)
        found = []
        for _ in range(4000):
            recent.learn(None, [Record("new", {})], ["yes"], latest, lambda rows, _: found.append(int(rows[1].id)))
        return found

    counts = np.bincount(drawn(0), minlength=20)
    assert drawn(0) == drawn(0) != drawn(1)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-square, 19 degrees of freedom, 0.1%


# -- refresh --------------------------------------------------------------------------------------------------


def test_a_refreshed_head_is_the_solution_on_the_latest_rows_and_the_body_stays():
    online, refresh = engine(), Refresh(rows=40, wait=15, C=2.0)
    latest = Latest(refresh.wants)
    learned(online, [*stream(100), (Record("x", {"a": 0.0, "b": 0.0}), "perhaps")], refresh, latest)
    refresh.begin(online, latest)
    after = stream(15, 1, swapped=True, start=200)
    learned(online, after, refresh, latest)
    before = {name: value.clone() for name, value in online.learner.model.state_dict().items()}
    head, bias = list(before)[-2:]
    records, labels = latest.last(40)
    with torch.no_grad():
        body = online.learner.model
        features = []
        handle = body.get_submodule(head.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, given: features.append(given[0].double())
        )
        body.eval()(online.encoder.encode(records)["x"])
        handle.remove()
    y = online.encoder.classes.index(labels)
    W, b = refitted(features[0], y, before[head].double(), before[bias].double(), 2.0)  # noqa: N806
    refresh.learn(online, *map(list, zip(*stream(1, 2), strict=True)), latest, lambda *_: None)
    now = online.learner.model.state_dict()
    assert torch.equal(now[head], W.float())
    assert torch.equal(now[bias], b.float())
    assert all(torch.equal(now[name], before[name]) for name in before if name not in (head, bias))
    gone = online.encoder.classes.names.index("perhaps") if "perhaps" not in labels else None
    assert gone is None or torch.equal(now[head][gone], before[head][gone])
    weights = dict(online.learner.model.named_parameters())
    known = {name for name, weight in weights.items() if weight in online.learner.optimizer.state}
    assert known == set(weights) - {head, bias}
    assert refresh.due is None
    assert refresh.news == ["fitted the head to 40 rows"]


def test_a_head_is_not_refreshed_before_it_is_time():
    online, refresh, latest = learned(engine(), stream(30)), Refresh(rows=10, wait=5), Latest(10)
    refresh.begin(online, latest)
    alone = engine()
    alone.load_state_dict(online.state_dict())
    learned(online, stream(5, 1), refresh, latest)
    learned(alone, stream(5, 1))
    assert checkpoint.same(online.state_dict(), alone.state_dict())
    assert refresh.due == 5


# -- challenge ------------------------------------------------------------------------------------------------


def test_a_challenger_that_is_better_takes_the_place_and_is_what_learning_alone_would_have_made():
    pairs, after = stream(200), stream(300, 1, swapped=True, start=200)
    online = learned(engine(optimizer="sgd:lr=0.005"), pairs)
    alone = engine(optimizer="sgd:lr=0.005")
    alone.load_state_dict(online.state_dict())
    challenge, latest = Challenge(learns=20, rows=200, factor=20.0), Latest(0)
    challenge.begin(online, latest)
    taken = 0
    for row, label in after:
        learned(online, [(row, label)], challenge, latest)
        taken += 1
        if challenge.news:
            break
    assert "won" in challenge.news[0]
    assert 20 < taken < 220
    with raised(alone.learner.optimizer, 20.0):
        learned(alone, after[:taken])
    assert checkpoint.same(online.state_dict()["learner"]["model"], alone.state_dict()["learner"]["model"])
    assert rates(online) == [0.005]
    assert online.steps == alone.steps
    assert challenge.rival is None


def test_the_model_learns_as_if_there_were_no_challenger():
    settings = {"model": "mlp:hidden=8,dropout=0.3", "method": "er:memory=20,count=2"}
    results = []
    for challenged in (False, True):
        torch.manual_seed(0)
        online, challenge = learned(engine(**settings), stream(40)), Challenge(learns=0, rows=50, alpha=1e-12)
        if challenged:
            challenge.begin(online, Latest(0))
        results.append(learned(online, stream(60, 1), challenge).state_dict())
        assert bool(challenge.news) == challenged
    assert "dropped" in challenge.news[0]
    assert checkpoint.same(*results)


def test_a_challenger_that_begins_anew_knows_the_fields_and_classes_and_can_win():
    online = learned(engine(), stream(60))
    challenge = Challenge(learns=60, rows=400, start="fresh", make=engine)
    challenge.check(online)
    challenge.begin(online, Latest(0))
    assert challenge.rival.encoder.columns == online.encoder.columns
    assert challenge.rival.encoder.classes.names == online.encoder.classes.names
    with torch.no_grad():
        for weight in online.learner.model.parameters():
            weight.zero_()  # what learns no more
    online.learner.optimizer.param_groups[0]["lr"] = 0.0
    learned(online, stream(200, 1), challenge)
    assert "won" in challenge.news[0]
    assert rates(online) == [0.1]


@pytest.mark.parametrize("other", [{"seed": 9}, {"model": "mlp:hidden=9"}, {"method": "er"}])
def test_what_could_not_take_the_place_is_refused_before_the_first_row(other):
    with pytest.raises(ValueError, match="cannot take the place"):
        Challenge(start="fresh", make=lambda: engine(**other)).check(engine())


def test_rows_that_are_refused_count_for_nobody():
    online, challenge = learned(engine(), stream(20)), Challenge(learns=0)
    challenge.begin(online, Latest(0))
    learned(online, stream(5, 1), challenge)
    before = challenge.state_dict()
    with pytest.raises(ValueError, match="number is needed"):
        challenge.learn(online, [Record("bad", {"a": float("inf")})], ["yes"], Latest(0), online.learn)
    assert checkpoint.same(challenge.state_dict(), before)


def test_a_head_that_cannot_be_fitted_is_news_and_the_rows_are_learned():
    online, refresh, latest = engine(), Refresh(wait=0), Latest(200)
    learned(online, stream(10), refresh, latest)
    *_, head = (module for module in online.learner.model.modules() if isinstance(module, torch.nn.Linear))
    head.weight.requires_grad_(False)
    refresh.begin(online, latest)
    learned(online, stream(3, 1), refresh, latest)
    assert "could not fit the head: the head" in refresh.news[0]
    assert len(refresh.news) == 1
    assert online.steps == 13


def test_two_engines_never_write_the_same_files(tmp_path):
    online = engine(method="er:memory=20,count=2")
    online.learner.method.memory = Memory(20, folder=tmp_path)
    with pytest.raises(ValueError, match="cannot lie on disk"):
        Challenge().check(online)


def test_a_second_drift_changes_nothing_about_a_challenge():
    online, challenge = learned(engine(), stream(10)), Challenge()
    challenge.begin(online, Latest(0))
    learned(online, stream(5, 1), challenge)
    rival = challenge.rival
    assert "goes on" in challenge.begin(online, Latest(0))
    assert challenge.rival is rival
    assert challenge.place == 5


@pytest.mark.parametrize("factor", [1e30, 1e38])
def test_a_challenger_that_diverges_is_dropped_and_harms_nobody(factor):
    settings = {"task": "regression", "optimizer": "sgd:lr=0.01"}
    online = learned(engine(**settings), [(row, row.fields["a"]) for row, _ in stream(20)])
    challenge = Challenge(factor=factor)
    challenge.begin(online, Latest(0))
    for row, _ in stream(20, 1):
        learned(online, [(row, row.fields["a"])], challenge)
        challenge.state_dict()  # there is always one that can be saved
    assert "did not stay finite" in challenge.news[0]
    assert all(weight.isfinite().all() for weight in online.learner.model.parameters())


def crossing(rows, alpha, wins_at):
    """The chance that one of two that are alike is declared the better one within so many rows that tell them apart."""
    chance, crossed = np.array([1.0]), 0.0  # of each number of wins, of those that have not crossed
    for n in range(1, rows + 1):
        chance = np.pad(chance, (0, 1)) / 2 + np.pad(chance, (1, 0)) / 2
        over = np.array([k >= n / 2 and wins_at(k, n - k, alpha) for k in range(n + 1)])
        crossed += chance[over].sum()
        chance[over] = 0
    return crossed


def test_looking_after_each_row_does_not_raise_the_chance_of_a_swap_for_nothing():
    def by_evidence(wins, losses, alpha):
        return evidence(wins, losses) >= -log(alpha)

    def by_p_value(wins, losses, alpha):
        n = wins + losses
        return sum(comb(n, k) for k in range(wins, n + 1)) <= alpha * 2**n

    for alpha in (0.05, 0.2):
        assert 0.3 * alpha < crossing(200, alpha, by_evidence) <= alpha
    assert crossing(100, 0.05, by_p_value) > 0.2  # which is why


def test_evidence_is_the_mean_of_likelihood_ratios():
    for wins, losses in ((0, 0), (3, 1), (40, 25), (500, 490)):
        ratios = [(2 * p) ** wins * (2 - 2 * p) ** losses for p in np.arange(0.55, 0.96, 0.05)]
        assert evidence(wins, losses) == pytest.approx(log(np.mean(ratios)), rel=1e-9, abs=1e-12)
    assert evidence(10_000, 0) > 1000  # no overflow
    assert evidence(0, 10_000) < -100


# -- by name --------------------------------------------------------------------------------------------------


def test_a_challenge_comes_first_wherever_it_stands():
    assert [each.name for each in reactions("boost+recent+challenge")] == ["challenge", "boost", "recent"]


def test_each_reaction_can_be_named():
    assert set(REACTIONS) == {"alert", "boost", "recent", "refresh", "challenge"}
    for name in REACTIONS:
        assert reactions(name)[0].name == name


def test_a_number_with_a_point_may_be_whole():
    (boost,) = reactions("boost:factor=5")
    assert type(boost.factor) is float


def test_the_latest_rows_are_kept_with_vectors_as_the_numbers_they_are():
    latest, other = Latest(3), Latest(3)
    records = [Record(str(i), {"v": torch.tensor([0.1 * i, 1.0]), "t": "x", "n": None}) for i in range(5)]
    latest.add(records, [0.1, 1.5, 2.5, 3.5, 4.5])
    other.load_state_dict(latest.state_dict())
    assert other.number == 5
    assert [torch.tensor(row.fields["v"]).tolist() for row in other.last(9)[0]] == [
        r.fields["v"].tolist() for r in records[2:]
    ]
    assert other.last(2)[1] == [3.5, 4.5]
    assert checkpoint.same(other.state_dict(), latest.state_dict())
    with pytest.raises(ValueError, match="each row has one label"):
        latest.add(records, [1.0])
