"""A service answers, waits for labels, scores and learns; and ends alike, however it was interrupted."""

import json
import math
import random
import threading
import time
from dataclasses import replace

import pytest
import torch
from online.feeding import Listed, run, service, state, stream

from everlearn import checkpoint
from everlearn.online import opening
from everlearn.online.block import Block
from everlearn.online.engine import Prediction
from everlearn.online.making import make_online
from everlearn.online.quarantine import QuarantineError
from everlearn.online.service import Service
from everlearn.online.settings import make_settings
from everlearn.online.summary import write_summary
from everlearn.streams.feed import Record
from everlearn.streams.lost import LostError


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def messy(count, *, seed=1):
    """A stream of rows and late labels of which every tenth comes twice, all a bit out of order."""
    chance = random.Random(seed)
    timed = []
    for number, row in enumerate(stream(count)):
        late = replace(row, label=None, fields={}, time=None)
        sent = [(number, replace(row, label=None))]
        label = Record(row.id, {}, row.label, row.time)
        sent.append((number + chance.uniform(0, 20), label))
        if number % 9 == 0:
            wrong = Record(row.id, {}, chance.choice("abc"), row.time - 0.5)
            sent.append((number + chance.uniform(0, 30), wrong))
        if number % 25 == 20:
            sent.append((number, replace(late, id="", problem="line is torn")))
            sent.append((number, replace(row, id=f"nan{number}", fields={"x": float("nan"), "z": 1.0})))
        for when, record in list(sent):
            if chance.random() < 0.1:
                sent.append((when + chance.uniform(0, 40), record))
        timed += [(when + chance.uniform(0, 3), record) for when, record in sent]
    return [record for _, record in sorted(timed, key=lambda pair: pair[0])]


# -- the order of things ----------------------------------------------------------------------------------------


def test_each_row_is_answered_before_it_is_learned_as_a_plain_loop_does_it(tmp_path):
    rows = stream(120)
    made = service(tmp_path / "run", Listed(rows), drift=False, predictions=True)
    run(made)
    online = make_online(model="mlp:hidden=8", method="er:memory=20,count=4", seed=0)
    right = 0
    for row, served in zip(rows, lines(tmp_path / "run/predictions.jsonl"), strict=True):
        (prediction,) = online.predict([row])
        assert (served["id"], served["answer"], served["steps"]) == (row.id, prediction.answer, online.steps)
        right += prediction.answer == row.label
        online.learn([row], [row.label])
    assert checkpoint.same(made.learning.online.state_dict(), online.state_dict())
    assert made.score.reading()["accuracy"] == right / 120


def test_rows_are_learned_in_batches_and_those_of_a_batch_are_answered_by_one_state(tmp_path):
    made = service(tmp_path / "run", Listed(stream(30)), batch_size=8, predictions=True)
    run(made)
    assert [line["steps"] for line in lines(tmp_path / "run/predictions.jsonl")] == [n // 8 for n in range(30)]
    assert made.learning.online.steps == 4  # the last batch has 6
    assert made.learning.rows == 30


@pytest.mark.parametrize("settings", [{}, {"batch_size": 5}, {"batch_size": 4, "label_delay": "7"}])
def test_the_sizes_of_the_chunks_that_a_feed_hands_out_change_no_bit(tmp_path, settings):
    records = messy(150)
    whole = run(service(tmp_path / "whole", Listed(records), **settings))
    chunks = Listed(records, chance=random.Random(3), most=11)
    assert checkpoint.same(run(service(tmp_path / "chunks", chunks, **settings)), whole)
    single = run(service(tmp_path / "single", Listed(records, most=1), **settings))
    assert checkpoint.same(single, whole)


# -- exactly once ------------------------------------------------------------------------------------------------


def test_a_service_that_broke_off_anywhere_goes_on_to_the_same_end(tmp_path):
    records = messy(120)
    settings = {"batch_size": 3, "checkpoint_rows": 17, "predictions": True, "bad_rows": ""}
    whole = service(tmp_path / "whole", Listed(records), **settings)
    ended = run(whole)
    chance = random.Random(0)
    breaks = 0
    while True:
        made = service(tmp_path / "run", Listed(records, chance=chance, most=9), **settings)
        left = chance.randint(1, 90) if breaks < 8 else -1
        steps = made.steps()
        for _ in steps:
            left -= 1
            if not left:
                break
        steps.close()  # as if it were killed: nothing is saved
        if made.ended:
            break
        breaks += 1
    assert breaks == 8
    assert checkpoint.same(state(made), ended)
    for name in ("predictions", "quarantine", "events"):
        assert lines(tmp_path / f"run/{name}.jsonl") == lines(tmp_path / f"whole/{name}.jsonl")
    assert len(lines(tmp_path / "run/quarantine.jsonl")) == made.quarantine.count > 0
    answered = [line["id"] for line in lines(tmp_path / "run/predictions.jsonl")]
    assert sorted(answered, key=lambda id_: int(id_[1:])) == [f"r{number}" for number in range(120)]


def test_no_row_is_lost_and_none_is_learned_twice_though_they_come_twice_and_out_of_order(tmp_path):
    learned = []

    def watched(**options):
        online = make_online(**options)
        learn = online.learn

        def noting(rows, labels):
            learned.extend(zip([row.id for row in rows], labels, strict=True))
            return learn(rows, labels)

        online.learn = noting
        return online

    made = service(tmp_path / "run", Listed(messy(200)), make=watched, bad_rows="", drift=False)
    run(made)
    right = {f"r{number}": row.label for number, row in enumerate(stream(200))}
    assert dict(learned) == right  # the last that was learned of each row is its true label
    assert len({*learned}) == len(learned)
    assert len(learned) - 200 <= made.ledger.counts.corrected
    assert made.tally.duplicates > 0
    assert made.score.rows == 200


def test_the_feed_is_told_what_is_safe_only_after_it_is(tmp_path):
    feed = Listed(stream(100), most=10)
    made = service(tmp_path / "run", feed, checkpoint_rows=30)
    saved = []
    feed.acknowledge = lambda position: saved.append((position, _newest(tmp_path / "run")))
    run(made)
    assert saved == [(30, 30), (60, 60), (90, 90), (100, 100)]


def _newest(folder):
    newest = max((folder / "checkpoints").glob("*.checkpoint"))
    return checkpoint.load(newest)["service"]["tally"]["records"]


@pytest.mark.parametrize("queue", [0, 80])
def test_what_was_learned_before_the_feed_lost_its_place_is_saved(tmp_path, queue):
    feed = Listed(stream(100), most=10)
    made = service(tmp_path / "run", feed, checkpoint_rows=50, queue=queue, drift=False)
    read = feed.read

    def losing(most, wait=0.0):
        if feed.place == 70:
            raise LostError("rows 71 to 80 are gone")
        return read(most, wait)

    feed.read = losing
    with pytest.raises(LostError):
        run(made)
    assert _newest(tmp_path / "run") == 70
    (newest,) = (tmp_path / "run/checkpoints").glob("*70.checkpoint")
    written = newest.stat().st_mtime_ns
    with pytest.raises(LostError):
        run(service(tmp_path / "run", feed, checkpoint_rows=50, queue=queue, drift=False))
    assert newest.stat().st_mtime_ns == written  # nothing new came


def test_a_damaged_checkpoint_is_gone_back_over(tmp_path):
    records = stream(100)
    whole = run(service(tmp_path / "whole", Listed(records)))
    made = service(tmp_path / "run", Listed(records), checkpoint_rows=20, predictions=True)
    steps = made.steps()
    for _ in range(70):
        next(steps)
    steps.close()
    newest = max((tmp_path / "run/checkpoints").glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-1])
    said = []
    again = service(tmp_path / "run", Listed(records), checkpoint_rows=20)
    for _ in again.steps(said.append):
        pass
    assert "going back to the one before it" in said[0]
    assert checkpoint.same(state(again)["learning"], whole["learning"])


def test_two_services_do_not_work_in_one_folder(tmp_path):
    steps = service(tmp_path / "run", Listed(stream(10))).steps()
    next(steps)
    with pytest.raises(ValueError, match="another process works on the run"):
        next(service(tmp_path / "run", Listed(stream(10))).steps())
    steps.close()


# -- labels -------------------------------------------------------------------------------------------------------


def test_labels_that_are_held_back_for_some_rows_are_learned_so_much_later(tmp_path):
    made = service(tmp_path / "run", Listed(stream(50)), label_delay="10", predictions=True)
    run(made)
    steps = [line["steps"] for line in lines(tmp_path / "run/predictions.jsonl")]
    assert steps == [max(0, number - 10) for number in range(50)]
    assert made.learning.rows == 50  # those that are still held back at the end come then


def test_labels_that_are_held_back_for_some_time_go_by_the_times_of_the_records(tmp_path):
    made = service(tmp_path / "run", Listed(stream(50, gap=2.0)), label_delay="10s", predictions=True)
    run(made)
    steps = [line["steps"] for line in lines(tmp_path / "run/predictions.jsonl")]
    assert steps == [max(0, number - 4) for number in range(50)]


def test_rows_without_a_time_cannot_wait_for_seconds(tmp_path):
    rows = [replace(row, time=None) for row in stream(3)]
    with pytest.raises(ValueError, match=r"have no time.*--time"):
        run(service(tmp_path / "run", Listed(rows), label_delay="10s"))


def test_rows_whose_label_never_comes_are_given_up(tmp_path):
    made = service(tmp_path / "run", Listed(stream(100, labelled=False)), expiry="30s")
    run(made)
    assert (made.ledger.counts.expired, made.ledger.waiting) == (69, 31)
    many = service(tmp_path / "many", Listed(stream(100, labelled=False)), capacity=40)
    run(many)
    assert (many.ledger.counts.dropped, many.ledger.waiting) == (60, 40)


def test_a_row_that_comes_again_with_its_label_brings_it(tmp_path):
    rows = stream(20)
    made = service(tmp_path / "run", Listed([replace(row, label=None) for row in rows] + rows + rows))
    run(made)
    assert (made.tally.rows, made.tally.duplicates, made.learning.rows) == (20, 40, 20)


def test_a_row_that_comes_again_with_its_label_brings_it_though_labels_are_held_back(tmp_path):
    rows = stream(20)
    again = [*(replace(row, label=None) for row in rows), *rows, *rows]
    made = service(tmp_path / "run", Listed(again), label_delay="30")
    run(made)
    assert (made.tally.duplicates, made.learning.rows, made.ledger.counts.double) == (40, 20, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_delay": "24h", "expiry": "1h"}, "held back for 1 d .* given up after 60 min"),
        ({"label_delay": "10", "expiry": "9"}, "held back for 10 rows .* given up after 9 rows"),
        ({"label_delay": "50", "capacity": 50}, "held back for 50 rows .* only 50 rows may wait"),
    ],
)
def test_labels_that_are_held_back_for_longer_than_rows_wait_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        service(tmp_path / "run", Listed([]), **settings)
    made = service(tmp_path / "run", Listed(stream(120)), label_delay="50", capacity=51, expiry="50")
    run(made)
    assert made.learning.rows == 120


def test_a_corrected_label_puts_the_score_right_and_is_learned(tmp_path):
    rows = stream(60)
    flips = [Record(row.id, {}, "b" if row.label == "a" else "a", row.time + 100) for row in rows[40:50]]
    made = service(tmp_path / "run", Listed([*rows, *flips]))
    run(made)
    assert (made.score.rows, made.score.corrected, made.learning.rows) == (60, 10, 70)
    assert made.score.reading()["rows"] == 60


def test_a_label_that_is_corrected_before_it_was_learned_is_learned_once(tmp_path):
    rows = stream(6)
    flip = Record("r1", {}, "z", 2000.0)
    made = service(tmp_path / "run", Listed([*rows, flip]), batch_size=8)
    run(made)
    assert made.learning.rows == 6
    assert "z" in made.learning.online.encoder.classes.names


def test_numbers_are_names_of_classes_or_what_is_predicted(tmp_path):
    rows = [replace(row, label=float("abc".index(row.label))) for row in stream(40)]
    made = service(tmp_path / "run", Listed(rows))
    run(made)
    assert {*made.learning.online.encoder.classes.names} == {"0", "1", "2"}
    numbers = service(tmp_path / "numbers", Listed(rows), task="regression", method="naive")
    run(numbers)
    assert numbers.score.reading()["mae"] > 0
    words = service(tmp_path / "words", Listed(stream(3)), task="regression", method="naive")
    run(words)
    assert words.quarantine.count == 3
    assert "but a finite number below 1e+15 is" in lines(tmp_path / "words/quarantine.jsonl")[0]["reason"]


def test_a_whole_number_too_large_for_any_float_is_a_bad_label_and_others_name_their_class_exactly(tmp_path):
    rows = [replace(row, label=label) for row, label in zip(stream(3), (10**400, 2**53 + 1, 1.5), strict=True)]
    made = service(tmp_path / "run", Listed(rows))
    run(made)
    assert made.quarantine.count == 1
    assert {*made.learning.online.encoder.classes.names} == {"9007199254740993", "1.5"}


def test_a_label_that_cannot_be_learned_is_not_scored_either(tmp_path):
    rows = [replace(row, label=1e200 if number == 5 else 1.0) for number, row in enumerate(stream(20))]
    made = service(tmp_path / "run", Listed(rows), task="regression", method="naive")
    run(made)
    assert (made.score.rows, made.learning.rows, made.quarantine.count) == (19, 19, 1)
    assert made.score.reading()["mae"] < 10


# -- a clock ------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards_expires_nothing_and_breaks_nothing(tmp_path):
    chance = random.Random(0)
    rows = stream(100)
    rows[3::7] = [replace(row, time=1000 - 1e6 * chance.random()) for row in rows[3::7]]
    made = service(tmp_path / "run", Listed(rows), label_delay="20s", expiry="50s")
    forward = service(tmp_path / "forward", Listed(stream(100)), label_delay="20s", expiry="50s")
    run(made)
    run(forward)
    assert made.ledger.counts == forward.ledger.counts
    assert made.ledger.counts.expired == 0
    assert made.learning.rows == 100


# -- bad rows -----------------------------------------------------------------------------------------------------


def test_bad_rows_are_set_aside_with_their_reason_and_change_nothing(tmp_path):
    good = stream(80)
    bad = [
        Record("torn", {}, problem="line 7 has 3 cells, expected 4"),
        Record("nan", {"x": float("nan"), "z": 0.0, "day": "mon"}, "a", 1000.0),
        Record("huge", {"x": 1e30, "z": 0.0, "day": "mon"}, "a", 1000.0),
        Record("text", {"x": "many", "z": 0.0, "day": "mon"}, "a", 1000.0),
        Record("unnamed", {"x": 0.0, "z": 0.0, "day": "mon"}, "", 1000.0),
    ]
    records = [*good[:40], *bad, *good[40:]]
    made = service(tmp_path / "run", Listed(records), batch_size=4)
    ended = run(made)
    clean = run(service(tmp_path / "clean", Listed([*good[:40], *good[40:]]), batch_size=4))
    found = lines(tmp_path / "run/quarantine.jsonl")
    assert [line["id"] for line in found] == ["torn", "nan", "huge", "text", "unnamed"]
    assert [line["position"] for line in found] == [41, 42, 43, 44, 45]
    assert "3 cells" in found[0]["reason"]
    assert "'x' is nan" in found[1]["reason"]
    assert checkpoint.same(
        ended["learning"]["online"]["learner"]["model"], clean["learning"]["online"]["learner"]["model"]
    )


def test_a_row_that_was_torn_is_learned_when_it_comes_whole(tmp_path):
    (row,) = stream(1)
    made = service(tmp_path / "run", Listed([replace(row, fields={}, label=None, problem="torn"), row]))
    run(made)
    assert (made.quarantine.count, made.learning.rows) == (1, 1)


def test_an_answer_that_is_no_number_is_not_served(tmp_path):
    rows = [replace(row, label=1.0) for row in stream(20)]

    def diverging(**options):
        online = make_online(**options)
        plain = online.predict
        none = [Prediction("", math.nan)]
        online.predict = lambda records: plain(records) if online.steps < 10 else none * len(records)
        return online

    made = service(tmp_path / "run", Listed(rows), task="regression", method="naive", make=diverging)
    run(made)
    assert (made.tally.rows, made.quarantine.count) == (10, 10)
    assert "the model answers nan" in lines(tmp_path / "run/quarantine.jsonl")[0]["reason"]


def test_a_row_that_only_learning_refuses_is_set_aside_alone(tmp_path):
    rows = stream(24)
    rows[9] = replace(rows[9], fields=rows[9].fields | {"never seen": float("inf")})
    made = service(tmp_path / "run", Listed(rows), batch_size=4)
    run(made)
    assert made.learning.rows == 23
    assert [line["id"] for line in lines(tmp_path / "run/quarantine.jsonl")] == ["r9"]


def test_too_many_bad_rows_stop_the_service_with_a_saved_state_and_a_higher_limit_goes_on(tmp_path):
    rows = [replace(row, problem="torn") if n % 4 == 0 else row for n, row in enumerate(stream(100))]
    whole = run(service(tmp_path / "whole", Listed(rows), bad_rows=""))
    made = service(tmp_path / "run", Listed(rows), bad_rows="9")
    with pytest.raises(QuarantineError, match="10 of 37 records could not be read or learned, and the limit is 9"):
        run(made)
    assert _newest(tmp_path / "run") == 37
    again = service(tmp_path / "run", Listed(rows), bad_rows="30")
    assert checkpoint.same(run(again), whole)
    assert len(lines(tmp_path / "run/quarantine.jsonl")) == 25


# -- bounded ------------------------------------------------------------------------------------------------------


def test_what_is_saved_does_not_grow_with_the_stream(tmp_path):
    sizes = []
    for count in (200, 600):
        made = service(
            tmp_path / str(count), Listed(messy(count)), capacity=50, corrections=20, duplicates=100, bad_rows="",
            method="naive", drift=False, model="linear",
        )  # fmt: skip
        run(made)
        sizes.append(max((tmp_path / str(count) / "checkpoints").glob("*.checkpoint")).stat().st_size)
        assert len(made.seen) == 100
        assert made.ledger.waiting <= 50
    assert sizes[1] < 1.5 * sizes[0]  # the curve of the scores has up to 1,000 points


# -- learning behind ----------------------------------------------------------------------------------------------


def slow(online, seconds, lock=None):
    learn = online.learn

    def learning(rows, labels):
        time.sleep(seconds)
        return learn(rows, labels)

    online.learn = learning
    return online


def test_with_a_queue_predictions_do_not_wait_for_a_learner_that_is_slow_and_what_is_shed_is_counted(tmp_path):
    made = service(
        tmp_path / "run", Listed(stream(300), follow=True), make=lambda **o: slow(make_online(**o), 0.02), queue=20,
        publish=5, drift=False, checkpoint_rows=100,
    )  # fmt: skip
    began = time.monotonic()
    steps = made.steps()
    while made.tally.rows < 300:
        next(steps)
    answering = time.monotonic() - began
    assert answering < 0.02 * 300 / 2  # learning all of them takes 6 seconds
    for _ in steps:
        pass
    assert made.tally.shed > 200
    assert made.learning.rows + made.tally.shed == 300  # none is lost, and none is learned twice
    assert made.score.rows == 300
    assert made.ended


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_of_a_file_that_is_finished_are_not_shed_but_wait_for_the_queue(tmp_path, batch_size):
    made = service(
        tmp_path / "run", Listed(stream(150)), make=lambda **o: slow(make_online(**o), 0.002), queue=4,
        batch_size=batch_size, publish=5, drift=False, checkpoint_rows=40,
    )  # fmt: skip
    run(made)
    assert (made.tally.shed, made.learning.rows, made.score.rows) == (0, 150, 150)


def test_what_is_shed_is_a_sample_of_all_that_came(tmp_path):
    made = service(tmp_path / "run", Listed([], follow=True), queue=50, drift=False)
    for number in range(2000):
        made.behind.put(number)  # nothing learns: the thread does not run
        assert len(made.behind.waiting) <= 50
    kept = made.behind.waiting
    assert kept == sorted(kept)
    assert made.behind.shed == 1950


def test_with_a_queue_predictions_come_from_a_state_that_was_published(tmp_path):
    made = service(tmp_path / "run", Listed(stream(200), most=5), queue=1000, publish=10, predictions=True, drift=False)
    steps = made.steps()
    for _ in steps:
        time.sleep(0.002)
    seen = [line["steps"] for line in lines(tmp_path / "run/predictions.jsonl")]
    assert seen == sorted(seen)
    assert len({*seen}) > 1
    assert all(number % 10 == 0 for number in seen)
    assert made.learning.rows == 200


def test_a_queue_is_saved_and_gone_on_with_so_that_each_row_is_learned_once_or_shed(tmp_path):
    records = [record for record in messy(250) if not record.id.startswith("nan")]
    chance = random.Random(5)
    settings = {
        "queue": 60, "batch_size": 2, "checkpoint_rows": 25, "bad_rows": "", "drift": False,
        "make": lambda **options: slow(make_online(**options), 0.001),
    }  # fmt: skip
    for attempt in range(6):
        made = service(tmp_path / "run", Listed(records, most=7, follow=True), **settings)
        steps = made.steps()
        for count, _ in enumerate(steps):
            if attempt < 5 and count == chance.randint(60, 200):
                break
        steps.close()
    assert made.ended
    assert made.learning.rows + made.tally.shed == made.score.rows + made.score.corrected
    assert made.score.rows == 250
    assert not [thread for thread in threading.enumerate() if thread.name == "everlearn-learning"]


def test_a_stop_saves_what_the_learner_has_in_hand(tmp_path):
    made = service(tmp_path / "run", Listed(stream(100), ends=False), queue=200, publish=5, drift=False)
    steps = made.steps()
    while made.tally.rows < 100:
        next(steps)
    made.save()
    steps.close()
    assert _newest(tmp_path / "run") == 100
    again = service(tmp_path / "run", Listed(stream(100)), queue=200, publish=5, drift=False)
    run(again)
    assert again.learning.rows == 100


def test_what_goes_wrong_behind_is_heard(tmp_path):
    def broken(**options):
        online = make_online(**options)

        def learn(rows, labels):
            raise RuntimeError("out of memory")

        online.learn = learn
        return online

    with pytest.raises(RuntimeError, match="out of memory"):
        run(service(tmp_path / "run", Listed(stream(500), most=5), make=broken, queue=20, drift=False))


def test_a_queue_too_short_for_a_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a queue of 3 rows never fills a batch of 8"):
        service(tmp_path / "run", Listed([]), queue=3, batch_size=8)


# -- state --------------------------------------------------------------------------------------------------------


def test_a_password_in_an_address_is_in_no_report_and_in_a_config_that_only_its_owner_can_read(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "open_feed", lambda source, **_: Listed(stream(3)))
    asked = {"source": "redis://:s3cret@host/rows", "out": str(tmp_path / "run"), "drift": "none", "model": "linear"}
    made = opening.begin_service(make_settings(asked))
    run(made)
    config = tmp_path / "run/config.json"
    assert "s3cret" in config.read_text()
    assert config.stat().st_mode & 0o077 == 0
    page = write_summary(made)
    assert "a list" in page.read_text()
    assert "s3cret" not in page.read_text() + (tmp_path / "run/report.json").read_text()


def test_what_a_row_is_answered_does_not_depend_on_the_rows_beside_it(tmp_path):
    rows = stream(64)
    made = service(tmp_path / "run", Listed(rows[:40]), batch_size=8, model="mlp:hidden=64x64")
    run(made)
    block = Block(8, made.learning.online.predict)
    together = block.predict(rows[40:48])
    for place, row in enumerate(rows[40:48]):
        block.place = place
        assert block.predict([row]) == [together[place]]
    assert isinstance(made, Service)
    assert torch.get_num_threads() == 1
