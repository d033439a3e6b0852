import math
from dataclasses import replace

import pytest
import torch
from backtest.logs import log, numbers, rows

from everlearn import checkpoint
from everlearn.backtest.archive import Archive
from everlearn.backtest.log import log_of
from everlearn.backtest.making import make_policy
from everlearn.backtest.policy import Schedule
from everlearn.backtest.replay import Replay
from everlearn.backtest.setup import Setup
from everlearn.backtest.trained import FineTune, Online, Retrain
from everlearn.methods.together import OF_CLASSES
from everlearn.online.span import Span
from everlearn.streams.feed import Record

WARM = 100
ALL = [
    *("never", "no-change", "majority", "online", "online:batch=8", "er:memory=50,count=8", "derpp:memory=50,count=8"),
    *(
        "retrain:every=2d",
        "retrain:every=100,window=150",
        "retrain:every=3d,window=2d,epochs=2",
        "retrain:every=3d,warm=true",
    ),
    *(
        "finetune:every=3d",
        "er:memory=50,every=3d",
        "finetune:every=100+ewc:lambda=1",
        "finetune:every=100+er:memory=9+lwf",
    ),
    *("drift:cooldown=50", "drift:detector=adwin|ddm,reaction=recent", "retrain:every=drift,window=100"),
    "odl:layers=3,width=8,rule=authors",
]


def replay(text, made, warm=WARM, **settings):
    archive = Archive(made)
    archive.at(warm)
    gap = made.clock[1] - made.clock[0]
    setup = Setup(archive, warm, gap, **{"model": "mlp:hidden=8", "epochs": 2, "optimizer": "sgd:lr=0.05"} | settings)
    return Replay(made, archive, make_policy(text, setup), warm)


def done(text, made, **settings):
    found = replay(text, made, **settings)
    for _ in found.steps():
        pass
    return found


def wrong(found):
    labels = found.log.labels[found.warm :]
    return sum(a != b for a, b in zip(found.answers, labels, strict=True)) / len(labels)


def plain(state):
    """A state without what clocks say."""
    return {name: value for name, value in state.items() if name != "seconds"}


@pytest.mark.parametrize("text", ALL)
def test_any_policy_interrupted_anywhere_goes_on_bit_for_bit(text, tmp_path, monkeypatch):
    monkeypatch.setattr("everlearn.backtest.replay.BLOCK", 50)
    made = log(240, turn=180, delay=Span.of(7))
    whole = done(text, made)
    first = replay(text, made)
    steps = first.steps()
    for _ in range(3):
        next(steps)
    checkpoint.save(first.state_dict(), tmp_path / "state")
    torch.manual_seed(1234)  # a new process has another place in the global generators
    second = replay(text, made)
    second.load_state_dict(checkpoint.load(tmp_path / "state"))
    for _ in second.steps():
        pass
    assert checkpoint.same(plain(second.state_dict()), plain(whole.state_dict()))


def test_a_policy_that_learns_follows_a_world_that_turns_over_and_never_does_not():
    made = log(600, turn=300)
    errors = {text: wrong(done(text, made)) for text in ("never", "online", "retrain:every=100,window=100")}
    assert errors["never"] > 0.45
    assert errors["online"] < 0.25
    assert errors["retrain:every=100,window=100"] < 0.4


@pytest.mark.parametrize("text", ["retrain:every=2d,window=150", "er:memory=50,every=3d", "online:batch=4"])
def test_what_comes_later_changes_no_answer_before(text):
    made = rows(260)
    other = [
        row if i < 200 else replace(row, fields={"a": 9.0 * i, "new": "x"}, label="third") for i, row in enumerate(made)
    ]
    first, second = (done(text, log_of("log", each, delay=Span.of(7))).answers for each in (made, other))
    assert first[:100] == second[:100]
    assert first != second


def test_no_change_says_the_newest_label_that_is_known():
    made = log(200, delay=Span.of(4))
    found = done("no-change", made)
    assert found.answers == [made.labels[row - 5] for row in range(WARM, 200)]


def test_majority_says_the_most_frequent_label_that_is_known():
    made = log(200, delay=Span.of(4))
    found = done("majority", made)
    for row in (WARM, 150, 199):
        known = made.labels[: row - 4]
        assert known.count(found.answers[row - WARM]) * 2 >= len(known)


def test_majority_of_numbers_is_their_mean():
    made = numbers()
    found = done("majority", made)
    assert found.answers[-1] == pytest.approx(math.fsum(made.labels[:-1]) / (len(made) - 1))


@pytest.mark.parametrize("text", ["never", "retrain:every=100", "online", "er:memory=50", "no-change"])
def test_numbers_can_be_predicted(text):
    found = done(text, numbers())
    assert all(isinstance(answer, float) for answer in found.answers)


@pytest.mark.parametrize("method", sorted(OF_CLASSES))
def test_a_method_of_classes_is_refused_where_numbers_are_predicted(method):
    with pytest.raises(ValueError, match=rf"{method} is about classes.*ewc:fisher=empirical"):
        replay(f"finetune:every=100+{method}", numbers(150))


@pytest.mark.parametrize("method", ["er:memory=50", "derpp:memory=50", "si", "mas", "ewc:fisher=empirical"])
def test_methods_that_hold_on_to_numbers_change_what_is_learned(method):
    made = numbers(220)
    assert done(f"finetune:every=50+{method}", made).answers != done("finetune:every=50", made).answers


def test_retraining_learns_all_that_is_known_each_time_and_fine_tuning_each_row_once():
    made = log(500)
    every = done("retrain:every=100,epochs=1", made).policy.effort
    assert every.trained == 200 + 300 + 400  # the turn at 500 is after the last row
    assert every.updates == 3
    assert every.kept == 499
    once = done("finetune:every=100,epochs=1", made).policy.effort
    assert (once.trained, once.updates, once.kept) == (300, 3, 100)
    assert done("never", made).policy.effort.trained == 0


def test_a_window_of_rows_or_of_time_bounds_what_is_learned():
    made = log(500)
    assert done("retrain:every=100,epochs=1,window=150", made).policy.effort.trained == 3 * 150
    # rows are an hour apart: those of the last 50 hours, with the one 50 hours ago
    assert done("retrain:every=100,epochs=1,window=50h", made).policy.effort.trained == 3 * 50


def test_what_is_out_of_a_window_need_not_be_kept():
    made = log(500)
    assert done("retrain:every=100,epochs=1,window=150", made).policy.effort.kept == 150
    assert done("retrain:every=300,epochs=1,window=50h", made).policy.effort.kept == 50


def test_labels_that_come_out_of_order_fall_out_of_a_window_by_their_rows():
    made = []
    for i, row in enumerate(rows(400)):
        made.append(replace(row, label=None))
        if i >= 30:
            made.append(Record(f"r{i - 30 if i % 2 else i - 5}", {}, "yes" if i % 3 else "no", row.time))
    made = log_of("log", made)
    policy = done("retrain:every=100,epochs=1,window=60", made).policy
    known = [row for row in range(len(made)) if made.arrivals[row] < len(made)]
    assert policy.pool == sorted(known)[-60:]


def test_retraining_from_scratch_does_not_depend_on_what_was_learned_before():
    made = log(300)
    turned = replay("retrain:every=100", made)
    for _ in turned.steps():
        pass
    alone = replay("never", made, warm=200)
    next(iter(alone.steps()))
    ours, theirs = (each.policy.trainee.online.learner.model.state_dict() for each in (turned, alone))
    assert checkpoint.same(dict(ours), dict(theirs))


def test_with_warm_it_does():
    made = log(300)
    cold, warm = (done(f"retrain:every=100,warm={word}", made) for word in ("false", "true"))
    ours, theirs = (each.policy.trainee.online.learner.model.state_dict() for each in (cold, warm))
    assert not checkpoint.same(dict(ours), dict(theirs))


def test_all_begin_with_the_same_model():
    made = log(300)
    states = []
    for text in ("never", "retrain:every=100", "finetune:every=100", "online", "er:memory=50"):
        found = replay(text, made)
        next(iter(found.steps()))
        states.append(dict(found.policy.trainee.online.learner.model.state_dict()))
    assert all(checkpoint.same(states[0], state) for state in states[:4])


def test_online_learns_each_label_in_one_step():
    effort = done("online", log(300)).policy.effort
    assert (effort.trained, effort.updates) == (199, 199)
    effort = done("online:batch=10", log(300)).policy.effort
    assert (effort.trained, effort.updates) == (190, 19)


def test_what_a_method_replays_counts_as_trained():
    alone, replaying = (done(text, log(200)).policy.effort for text in ("online", "er:memory=50,count=4"))
    assert alone.trained == 99
    assert replaying.trained == 99 * 5


@pytest.mark.parametrize("start", ["copy", "fresh"])
def test_what_a_challenger_learns_counts_as_trained(start):
    made = log(480, turn=300)
    policy = done(f"drift:reaction=challenge:start={start}", made).policy
    assert policy.drift.count
    assert policy.effort.trained == policy.effort.updates + policy.drift.reactions[0].steps


def test_what_a_reaction_goes_by_counts_as_kept():
    assert done("drift:reaction=recent:rows=70", log(400)).policy.effort.kept == 70


def widening():
    """From row 150 on there is a column that was not there before, and from row 200 on a third class."""
    made = rows(300)
    for i in range(150, 300):
        made[i] = replace(made[i], fields={**made[i].fields, "kind": "new"})
    return log_of("log", [replace(row, label="third") if i > 200 and i % 3 == 0 else row for i, row in enumerate(made)])


@pytest.mark.parametrize(
    "text",
    [
        *("never", "online", "er:memory=50", "retrain:every=60,warm=true", "finetune:every=60+ewc:lambda=1", "drift"),
        *("finetune:every=60+si", "finetune:every=60+derpp:memory=50", "odl:layers=3,width=8+er:memory=20"),
    ],
)
def test_columns_and_classes_may_come_that_were_not_there_before(text):
    found = done(text, widening())
    assert found.done
    assert text == "never" or "third" in found.policy.trainee.online.encoder.classes


@pytest.mark.parametrize("method", ["lwf", "er:memory=20+featdistill", "gpm"])
def test_a_method_that_cannot_follow_new_columns_says_which_and_the_way_out(method):
    with pytest.raises(ValueError, match=r"'kind=new', and .* keeps a part.*--features"):
        done(f"finetune:every=60+{method}", widening())


def test_rows_are_read_in_parts_as_if_they_were_read_at_once(monkeypatch):
    made = widening()
    monkeypatch.setattr("everlearn.backtest.trainee.PART", 7)
    parts = done("retrain:every=60", made)
    monkeypatch.setattr("everlearn.backtest.trainee.PART", 10_000)
    assert checkpoint.same(plain(parts.state_dict()), plain(done("retrain:every=60", made).state_dict()))


def test_an_alarm_makes_it_learn_and_quiet_errors_do_not():
    turned = done("finetune:every=drift", log(1500, turn=800)).policy.effort
    assert 1 <= turned.updates <= 3
    still = done("finetune:every=drift", log(800), epochs=20).policy.effort
    assert still.updates == 0


def test_a_schedule_makes_up_for_no_gap():
    made = log(100)
    archive = Archive(made)
    archive.at(99)
    schedule = Schedule(Span.of("10h"), archive, 20)
    assert not schedule.due(29)
    assert schedule.due(30)
    assert schedule.due(57)
    schedule.done(57)
    assert not schedule.due(59)
    assert schedule.due(60)


def test_a_method_alone_is_online_and_with_every_it_is_periodic():
    made = log(300)
    assert isinstance(replay("er:memory=10", made).policy, Online)
    assert isinstance(replay("er:memory=10,every=1d", made).policy, FineTune)
    assert isinstance(replay("finetune", made).policy, Online)
    assert isinstance(replay("retrain:every=1d+er:memory=10", made).policy, Retrain)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nevr", "no policy 'nevr'.*did you mean 'never'"),
        ("retrian:every=7d", "did you mean 'retrain'"),
        ("fine-tune:every=7d", "did you mean 'finetune'"),
        ("retrain", "needs to know when.*every=7d"),
        ("finetune:epochs=3", "needs to know when.*every=7d"),
        ("retrain:every=0", "less than a row"),
        ("retrain:every=10m", "less than a row, and rows are 60 min apart"),
        ("retrain:every=0.5", "a time such as 7d"),
        ("retrain:evry=7d", "no setting 'evry'.*did you mean 'every'"),
        ("retrain:every=7d,window=0", "holds no rows"),
        ("retrain:every=7d,warm=3", "true or false"),
        ("retrain:every=7d,epochs=0", "whole number of at least 1"),
        ("retrain:every=7d,cooldown=5", "cooldown is for every=drift"),
        ("never+er", "nothing for er"),
        ("never:every=3", "it has none"),
        ("online:batch=x", "whole number"),
        ("online+nothing", "no method 'nothing'"),
        ("finetune:every=7d+hat", "needs to know which task"),
        ("finetune:every=7d+dann", "rows without labels"),
        ("ewc", "borders"),
        ("drift:reaction=panic", "no reaction 'panic'"),
        ("drift:detector=nobody", "nobody"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_way_out(text, said):
    with pytest.raises(ValueError, match=said):
        replay(text, log(300))


@pytest.mark.parametrize("text", ["retrain:every=7d", "retrain:every=100,window=7d"])
def test_times_need_a_log_with_times(text):
    with pytest.raises(ValueError, match=r"no times.*--time"):
        replay(text, log(300, timed=False))
