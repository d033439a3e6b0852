"""Labels find the predictions that were served: late, early, twice, corrected, never, and in whatever order."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import checkpoint
from everlearn.online.engine import Prediction
from everlearn.online.ledger import Ledger
from everlearn.streams.feed import Record


def row(id_, **fields):
    return Record(id_, fields or {"x": 1.0}, time=5.0, position=[3, "a"])


def said(id_, answer="a"):
    return Prediction(id_, answer, (0.75, 0.25), 7)


def test_a_label_that_comes_late_finds_its_row_and_the_prediction_that_was_served():
    ledger = Ledger()
    assert ledger.serve(row("r1"), said("r1", "rain"), now=0) is None
    assert ledger.waiting == 1
    settled = ledger.label("r1", "snow", now=100)
    assert (settled.record, settled.prediction, settled.label, settled.was) == (
        row("r1"),
        said("r1", "rain"),
        "snow",
        None,
    )
    assert ledger.waiting == 0
    assert (ledger.counts.served, ledger.counts.labelled) == (1, 1)


def test_a_label_may_come_before_its_row():
    ledger = Ledger()
    assert ledger.label("r1", "snow", now=0) is None
    settled = ledger.serve(row("r1"), said("r1", "rain"), now=1)
    assert (settled.prediction.answer, settled.label) == ("rain", "snow")
    assert (ledger.counts.early, ledger.counts.labelled) == (1, 1)


def test_a_label_that_comes_twice_is_scored_once():
    ledger = Ledger()
    ledger.serve(row("r1"), said("r1"), now=0)
    assert ledger.label("r1", "a", now=1) is not None
    assert ledger.label("r1", "a", now=2) is None
    ledger.label("r2", "a", now=3)
    assert ledger.label("r2", "a", now=3) is None
    assert ledger.counts.double == 2


def test_a_corrected_label_says_what_it_was():
    ledger = Ledger()
    ledger.serve(row("r1"), said("r1"), now=0)
    ledger.label("r1", "a", now=1)
    settled = ledger.label("r1", "b", now=2)
    assert (settled.label, settled.was) == ("b", "a")
    assert (ledger.counts.labelled, ledger.counts.corrected) == (1, 1)


def test_of_two_labels_the_one_that_was_said_later_counts_whichever_comes_first():
    for order in ((("b", 2.0), ("a", 1.0)), (("a", 1.0), ("b", 2.0))):
        for place in range(3):
            ledger, last = Ledger(), None
            for step in range(3):
                if step == place:
                    settled = ledger.serve(row("r1"), said("r1"), now=0)
                else:
                    label, when = order[step if step < place else step - 1]
                    settled = ledger.label("r1", label, now=0, said=when)
                last = settled or last
            assert last.label == "b"
            assert ledger.counts.labelled == 1


def test_a_label_said_again_later_is_not_overruled_by_one_between():
    ledger = Ledger()
    ledger.serve(row("r1"), said("r1"), now=0)
    ledger.label("r1", "a", now=1, said=5)
    ledger.label("r1", "a", now=2, said=9)
    assert ledger.label("r1", "b", now=3, said=7) is None


def test_what_waits_too_long_is_given_up_and_its_label_is_late():
    ledger = Ledger(expiry=10)
    ledger.serve(row("r1"), said("r1"), now=0)
    ledger.serve(row("r2"), said("r2"), now=5)
    assert ledger.expire(now=10) == []
    assert ledger.expire(now=10.5) == [row("r1")]
    assert ledger.label("r1", "a", now=11) is None
    assert ledger.label("r2", "a", now=15) is not None
    assert (ledger.counts.expired, ledger.counts.late, ledger.counts.labelled) == (1, 1, 1)
    ledger.label("never", "a", now=15)
    ledger.expire(now=26)
    assert ledger.counts.unknown == 1


def test_expiry_happens_whether_or_not_anybody_asks_for_it():
    ledger = Ledger(expiry=10)
    ledger.serve(row("r1"), said("r1"), now=0)
    assert ledger.label("r1", "a", now=11) is None
    ledger.label("r2", "a", now=11)
    assert ledger.serve(row("r2"), said("r2"), now=22) is None


def test_a_clock_that_goes_backwards_gives_nothing_up_and_keeps_nothing_longer():
    ledger = Ledger(expiry=10)
    ledger.serve(row("r1"), said("r1"), now=100)
    ledger.serve(row("r2"), said("r2"), now=-1000)  # it counts as 100
    assert ledger.expire(now=50) == []
    assert ledger.label("r1", "a", now=0) is not None
    assert ledger.expire(now=110) == []
    assert ledger.expire(now=111) == [row("r2")]


def test_it_holds_no_more_than_it_may_and_counts_what_it_drops():
    ledger = Ledger(capacity=5, corrections=3)
    for number in range(100):
        ledger.serve(row(f"r{number}"), said(f"r{number}"), now=number)
        ledger.label(f"never{number}", "a", now=number)
    assert ledger.waiting == 5
    assert (ledger.counts.dropped, ledger.counts.unknown) == (95, 95)
    assert len(ledger._early) == 5
    for number in range(95, 100):
        ledger.label(f"r{number}", "a", now=100)
    assert len(ledger._settled) == 3
    assert ledger.label("r95", "b", now=100) is None  # settled too long ago
    assert ledger.label("r99", "b", now=100).was == "a"
    assert ledger.label("r0", "b", now=100) is None
    assert ledger.counts.late == 1  # r0 is forgotten altogether, and counts as one that comes later
    assert ledger.counts.early == 101


def test_a_row_is_served_once():
    ledger = Ledger()
    ledger.serve(row("r1"), said("r1"), now=0)
    with pytest.raises(ValueError, match="row 'r1' was served before"):
        ledger.serve(row("r1"), said("r1"), now=0)


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"expiry": -1}, {"expiry": math.nan}, {"corrections": -1}])
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="a ledger needs a capacity"):
        Ledger(**wrong)


def test_its_state_goes_through_a_checkpoint_and_it_goes_on_alike(tmp_path):
    ledger = Ledger(expiry=50, capacity=6, corrections=4)
    for number in range(40):
        serve_and_label(ledger, number)
    checkpoint.save(ledger.state_dict(), tmp_path / "state")
    again = Ledger(expiry=50, capacity=6, corrections=4)
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert checkpoint.same(again.state_dict(), ledger.state_dict())
    for number in range(40, 80):
        assert serve_and_label(again, number) == serve_and_label(ledger, number)
    assert checkpoint.same(again.state_dict(), ledger.state_dict())


def serve_and_label(ledger, number):
    fields = {"x": number / 3, "word": f"w{number}", "flag": True, "none": None}
    settled = [ledger.serve(row(f"r{number}", **fields), said(f"r{number}", "ab"[number % 2]), now=number)]
    settled += [ledger.label(f"r{number * 7 % 80}", "a", now=number), ledger.label(f"r{number - 3}", "b", now=number)]
    return settled


# -- the same totals, whatever the order -----------------------------------------------------------------------

ANSWERS = st.sampled_from("abc")
STREAMS = st.lists(
    st.tuples(ANSWERS, st.lists(ANSWERS, max_size=3), st.integers(min_value=1, max_value=3)), min_size=1, max_size=12
)


def messages(stream):
    """Rows with their predictions, and labels: each corrected so often, and said so many times."""
    for number, (answer, labels, times) in enumerate(stream):
        yield ("serve", f"r{number}", answer, None)
        for when, label in enumerate(labels):
            for _ in range(times):
                yield ("label", f"r{number}", label, float(when))


def totals(arriving, ledger):
    right = 0
    for now, (kind, id_, value, when) in enumerate(arriving):
        if kind == "serve":
            settled = ledger.serve(row(id_), said(id_, value), now)
        else:
            settled = ledger.label(id_, value, now, when)
        if settled:
            right += settled.prediction.answer == settled.label
            right -= settled.prediction.answer == settled.was
    return ledger.counts.served, ledger.counts.labelled, right


@given(STREAMS, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_served_labelled_and_right_are_the_same_in_whatever_order_all_arrives(stream, chance):
    arriving = list(messages(stream))
    expected = (
        len(stream),
        sum(bool(labels) for _, labels, _ in stream),
        sum(bool(labels) and labels[-1] == answer for answer, labels, _ in stream),
    )
    for _ in range(3):
        chance.shuffle(arriving)
        assert totals(arriving, Ledger(expiry=1000.0, capacity=1000)) == expected
