"""Drift: what detectors say becomes one event a drift, reactions take part in learning, and all goes on exactly."""

import random

import pytest
import torch

from everlearn import checkpoint
from everlearn.online.drift import Drift, Event
from everlearn.online.making import make_online
from everlearn.online.reaction import Reaction
from everlearn.streams.feed import Record

pytest.importorskip("river", reason="detectors of drift are those of river")


class Says:
    """A detector that speaks at given rows, counted from where it began."""

    def __init__(self, name, *rows):
        self.name, self.rows, self.seen = name, rows, 0

    def update(self, error):
        self.seen += 1
        return self.seen - 1 in self.rows

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def engine(**settings):
    return make_online(**{"model": "mlp:hidden=8", "optimizer": "sgd:lr=0.1,momentum=0.9", **settings})


def rows(count, seed=0, *, swapped=False, start=0):
    draw = random.Random(seed)
    made = [Record(f"{start + i}", {"a": draw.gauss(0, 1), "b": draw.gauss(0, 1)}) for i in range(count)]
    return made, ["yes" if (row.fields["a"] > 0) != swapped else "no" for row in made]


def told(drift, errors, online=None, labels=None):
    """The events, row by row."""
    online = online or engine()
    labels = labels or [None] * len(errors)
    return [
        event for at, error in enumerate(errors) for event in drift.update(error, online, at, float(at), labels[at])
    ]


def test_one_drift_is_one_event():
    drift = Drift([Says("first", 10), Says("second", 12, 40)], cooldown=20, warmup=0)
    events = told(drift, [0.0] * 80)
    assert (
        events == [Event(10, 10.0, "first", "alert", ""), Event(51, 51.0, "second", "alert", "")] or events[0].at == 10
    )
    assert events == drift.events


def test_after_an_event_all_begin_anew_and_are_silent_for_the_cooldown():
    drift = Drift([Says("one", 10), Says("other", 15)], cooldown=6, warmup=0)
    events = told(drift, [0.0] * 60)
    # At 10 "one" speaks, and both count from 0 again: so "one" speaks at 21, "other" never gets to 15.
    assert [(event.at, event.detector) for event in events] == [
        (10, "one"),
        (21, "one"),
        (32, "one"),
        (43, "one"),
        (54, "one"),
    ]
    drift = Drift([Says("one", 10)], cooldown=11, warmup=0)
    assert [event.at for event in told(drift, [0.0] * 60)] == [10]  # at 21 it speaks in vain, and is silent after that
    assert (drift.silenced, drift.count) == (1, 1)


def test_nothing_counts_in_the_warm_up():
    drift = Drift([Says("a", 3, 9)], cooldown=0, warmup=5)
    assert [event.at for event in told(drift, [0.0] * 12)] == [9]
    assert drift.silenced == 1


def test_an_event_says_which_detectors_spoke_and_each_reaction_that_begins():
    drift = Drift([Says("a", 4), Says("b"), Says("c", 4)], "boost:factor=2,steps=3+refresh", warmup=0)
    events = told(drift, [0.0] * 6)
    assert [(event.detector, event.reaction) for event in events] == [("a+c", "boost"), ("a+c", "refresh")]
    assert events[0].detail == "learns with 2 times the rate for 3 steps"
    assert [line.split()[:3] for line in drift.table().splitlines()] == [
        ["row", "detector", "reaction"],
        ["4", "a+c", "boost"],
        ["4", "a+c", "refresh"],
    ]


def test_the_default_notices_a_rise_once():
    draw = random.Random(0)
    errors = [float(draw.random() < (0.1 if at < 3000 else 0.4)) for at in range(4000)]
    events = told(Drift(), errors)
    assert len(events) == 1
    assert 3000 < events[0].at < 3200


def test_a_class_of_its_own_has_detectors_of_its_own():
    draw = random.Random(0)
    labels = ["rare" if at % 20 == 0 else "often" for at in range(9_000)]
    errors = [float(draw.random() < (0.7 if at > 6000 and labels[at] == "rare" else 0.05)) for at in range(9_000)]
    assert told(Drift("adwin:delta=0.0001"), errors, labels=labels) == []
    events = told(Drift("adwin:delta=0.0001", by_class=5), errors, labels=labels)
    assert [event.detector for event in events] == ["adwin:delta=0.0001 [rare]"]
    assert 6000 < events[0].at < 8000


def test_no_more_classes_are_watched_than_was_said():
    drift = Drift("adwin", by_class=2)
    told(drift, [0.0] * 9, labels=list("abcdabcda"))
    assert list(drift.state_dict()["detectors"]) == ["", "class a", "class b"]


def test_the_last_events_are_kept():
    drift = Drift([Says("a", 0)], cooldown=0, warmup=0, keep=3)
    events = told(drift, [0.0] * 10)
    assert len(events) == 10
    assert drift.events == events[-3:]
    assert drift.count == 10


def test_without_a_drift_learning_is_that_of_the_engine_alone():
    alone, watched, drift = engine(), engine(), Drift(reactions="challenge+boost+recent+refresh")
    for record, label in zip(*rows(60), strict=True):
        drift.update(0.0, watched, 0)
        assert drift.learn(watched, [record], [label]) == alone.learn([record], [label])
    assert checkpoint.same(watched.state_dict(), alone.state_dict())


class Tells(Reaction):
    """Says how many rows came in each step."""

    name = "tells"

    def learn(self, online, records, labels, latest, rest):
        self.news.append(f"{len(records)} rows after {latest.number}")
        return rest(records, labels)


def test_what_becomes_of_a_reaction_is_an_event_that_the_next_call_returns():
    drift, online = Drift("adwin", [Tells()]), engine()
    drift.update(0.0, online, 7, 70.0)
    drift.learn(online, *rows(3))
    drift.learn(online, *rows(2))
    assert drift.update(0.0, online, 8) == [
        Event(7, 70.0, "", "tells", "3 rows after 0"),
        Event(7, 70.0, "", "tells", "2 rows after 3"),
    ]
    assert drift.update(0.0, online, 9) == []


REACTIONS = (
    "challenge:learns=5,rows=60+boost:factor=4,steps=40+recent:rows=50,steps=50,since=20+refresh:rows=40,wait=20"
)


def run(online, drift, records, labels, start):
    events = []
    for at, (record, label) in enumerate(zip(records, labels, strict=True), start):
        (prediction,) = online.predict([record])
        events += drift.update(float(prediction.answer != label), online, at, label=label)
        drift.learn(online, [record], [label])
    return events


@pytest.mark.parametrize("method", ["naive", "er:memory=30,count=4"])
def test_a_saved_one_goes_on_bit_for_bit_wherever_the_stream_is_split(method, tmp_path):
    def made():
        online = engine(method=method, model="mlp:hidden=8,dropout=0.2", seed=3)
        settings = {"cooldown": 30, "warmup": 20, "by_class": 2}
        return online, Drift("adwin:delta=0.2,clock=4+page-hinkley:threshold=5", REACTIONS, **settings)

    first, second = rows(120), rows(120, 1, swapped=True, start=120)
    records, labels = first[0] + second[0], first[1] + second[1]
    torch.manual_seed(5)
    online, drift = made()
    expected = run(online, drift, records, labels, 0)
    assert {event.reaction for event in expected} == {"challenge", "boost", "recent", "refresh"}
    for place in (10, 125, 135, 150, 165, 200):
        torch.manual_seed(5)
        before, watch = made()
        events = run(before, watch, records[:place], labels[:place], 0)
        checkpoint.save({"online": before.state_dict(), "drift": watch.state_dict()}, tmp_path / "state")
        torch.manual_seed(6)
        after, watch = made()
        state = checkpoint.load(tmp_path / "state")
        after.load_state_dict(state["online"])
        watch.load_state_dict(state["drift"])
        events += run(after, watch, records[place:], labels[place:], place)
        assert events == expected
        assert checkpoint.same(after.state_dict(), online.state_dict())
        assert checkpoint.same(watch.state_dict(), drift.state_dict())


def test_the_state_of_other_detectors_or_reactions_is_refused():
    with pytest.raises(ValueError, match=r"has the detectors \['adwin', 'page-hinkley'\]"):
        Drift("adwin").load_state_dict(Drift().state_dict())
    with pytest.raises(ValueError, match=r"has the reactions \['alert'\]"):
        Drift(reactions="boost").load_state_dict(Drift().state_dict())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cooldown": -1}, "cooldown must be at least 0"),
        ({"detectors": [Says("a")], "by_class": 2}, "needs them as text"),
        ({"reactions": "reset"}, "there is no reaction 'reset'"),
        ({"reactions": "boost:factor=0"}, "above 0"),
        ({"reactions": "boost:steps=1.5"}, "a whole number"),
        ({"reactions": "boost:stepps=1"}, "did you mean 'steps'"),
        ({"reactions": "boost+boost"}, "twice"),
        ({"reactions": "recent:share=1"}, "between 0 and 1"),
        ({"reactions": "challenge:alpha=1"}, "between 0 and 1"),
        ({"reactions": "challenge:start=fresh"}, "how an engine is made"),
        ({"reactions": "challenge:start=old"}, "copy or fresh"),
        ({"reactions": "challenge:make=1"}, "no setting 'make'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        Drift(**settings)


def test_a_reaction_that_can_do_nothing_for_an_engine_says_so_before_the_first_row():
    with pytest.raises(ValueError, match="refresh fits a head to classes"):
        Drift(reactions="refresh").update(0.0, engine(task="regression"), 0)
