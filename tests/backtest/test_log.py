import tracemalloc
from dataclasses import replace

import pytest
from backtest.logs import HOUR, START, log, rows

from everlearn.backtest.log import log_of
from everlearn.online.span import Span
from everlearn.streams.feed import Record


def test_the_records_of_a_log_hold_no_labels():
    made = log(10)
    assert all(record.label is None for record in made.records)
    assert set(made.labels) == {"yes", "no"}


def test_without_a_delay_a_label_is_known_when_the_next_row_is_asked():
    assert log(4).arrivals == (1, 2, 3, 4)


def test_a_delay_of_rows_is_known_after_so_many_more_rows_were_asked():
    assert log(5, delay=Span.of(2)).arrivals == (3, 4, 5, 5, 5)


def test_a_delay_of_time_is_known_to_the_first_row_that_is_asked_at_or_after_it():
    assert log(5, delay=Span.of("2h")).arrivals == (2, 3, 4, 5, 5)
    assert log(5, delay=Span.of("90m")).arrivals == (2, 3, 4, 5, 5)
    assert log(5, delay=Span.of("1m")).arrivals == (1, 2, 3, 4, 5)


def test_a_column_may_say_when_each_label_was_known_and_is_no_feature():
    made = rows(4)
    waits = (3 * HOUR, 0, HOUR, HOUR)
    told = [replace(row, fields={**row.fields, "known": row.time + w}) for row, w in zip(made, waits, strict=True)]
    found = log_of("log", told, delay="known")
    assert found.arrivals == (3, 2, 3, 4)
    assert all("known" not in record.fields for record in found.records)


def test_a_label_whose_time_is_missing_is_never_known_but_counts():
    made = rows(3)
    told = [
        replace(row, fields={**row.fields, **({"known": row.time} if i != 1 else {})}) for i, row in enumerate(made)
    ]
    found = log_of("log", told, delay="known")
    assert found.arrivals == (1, 3, 3)
    assert found.labels[1] is not None


def test_a_label_that_is_known_before_its_row_is_refused():
    told = [replace(row, fields={**row.fields, "known": row.time - 1}) for row in rows(3)]
    with pytest.raises(ValueError, match=r"before the row happened.*learn the future"):
        log_of("log", told, delay="known")


def test_labels_that_are_records_of_their_own_are_as_late_as_they_stand():
    made = [
        Record("a", {"x": 1.0}),
        Record("b", {"x": 2.0}),
        Record("b", {}, "no"),
        Record("c", {"x": 3.0}),
        Record("a", {}, "yes"),
        Record("b", {}, "yes"),
        Record("z", {}, "yes"),
    ]
    found = log_of("log", made)
    assert found.labels == ("yes", "no", None)
    assert found.arrivals == (3, 2, 3)
    assert sum(found.left_out.values()) == 2
    with pytest.raises(ValueError, match=r"records of their own"):
        log_of("log", made, delay=Span.of(3))


def test_a_label_that_comes_before_its_row_is_known_at_the_next():
    made = [Record("a", {}, "yes"), Record("a", {"x": 1.0}), Record("b", {"x": 2.0}, "no")]
    assert log_of("log", made).arrivals == (1, 2)


def test_a_log_out_of_order_is_refused_with_the_way_out_and_sorted_when_asked():
    made = rows(5)
    made[1], made[3] = made[3], made[1]
    with pytest.raises(ValueError, match=r"not in the order of time.*'r2'.*comes after.*'r3'.*--sort"):
        log_of("log", made)
    assert [record.id for record in log_of("log", made, sort=True).records] == [f"r{i}" for i in range(5)]


def test_rows_at_the_same_time_keep_their_order_when_sorted():
    made = [Record(str(i), {"x": 1.0}, "a" if i else "b", START + HOUR * (i == 0)) for i in range(4)]
    assert [record.id for record in log_of("log", made, sort=True).records] == ["1", "2", "3", "0"]


def test_some_rows_without_times_are_refused():
    made = rows(3)
    made[1] = replace(made[1], time=None)
    with pytest.raises(ValueError, match=r"row 2 has no time"):
        log_of("log", made)


def test_a_log_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"no labels in any of 3 rows.*--label"):
        log_of("log", [replace(row, label=None) for row in rows(3)])


def test_a_log_of_problems_is_refused_with_the_first():
    with pytest.raises(ValueError, match=r"no rows that can be read.*line 1"):
        log_of("log", [Record("a", {}, problem="line 1: no JSON")])


def test_rows_that_cannot_be_read_are_left_out_and_counted():
    bad = [Record(f"bad{i}", {}, problem=f"line {i}: no JSON") for i in range(4, 40)]
    found = log_of("log", [*rows(3), *bad])
    assert len(found) == 3
    assert found.left_out == {"could not be read, the first: line 4: no JSON": 36}  # one line, however many there are


def test_a_log_whose_labels_could_not_be_read_says_what_was_wrong_with_them():
    bare = [replace(row, label=None) for row in rows(3)]
    with pytest.raises(ValueError, match=r"no labels.*1 could not be read, the first: line 4: 0.5 names no class"):
        log_of("log", [*bare, Record("bad", {}, problem="line 4: 0.5 names no class")])


def test_a_row_that_was_delivered_twice_is_one_row():
    made = rows(5)
    found = log_of("log", [*made, made[2]], sort=True)
    assert [record.id for record in found.records] == [f"r{i}" for i in range(5)]
    assert list(found.left_out.values()) == [1]


def test_a_row_that_comes_again_with_its_label_tells_it_then():
    made = rows(4, timed=False)
    found = log_of("log", [replace(made[0], label=None), *made[1:3], made[0], made[3]])
    assert found.arrivals == (3, 2, 3, 4)
    assert found.labels[0] == made[0].label


def test_its_label_is_known_when_it_came_again_though_the_row_then_has_another_time():
    made = rows(4)
    again = replace(made[0], time=made[2].time)
    found = log_of("log", [replace(made[0], label=None), *made[1:3], again, made[3]])
    assert found.arrivals == (3, 2, 3, 4)
    assert found.clock[0] == made[0].time
    with pytest.raises(ValueError, match="have the same id"):  # with a label each, it is another event
        log_of("log", [*made[:3], again, made[3]])


def test_an_id_of_many_rows_is_refused_as_a_memory_would_keep_one_of_them():
    made = [replace(row, id=f"sensor{i % 3}") for i, row in enumerate(rows(9))]
    with pytest.raises(ValueError, match=r"rows \d and \d have the same id, 'sensor\d', and differ.*--id"):
        log_of("log", made)


def test_rows_come_back_as_they_were_and_are_not_held_in_memory():
    made = [
        Record("a", {"x": 0.1 + 0.2, "y": float("inf"), "on": True, "day": "t\u00fc\u00df\n", "n": 3}, "yes"),
        Record("b", {"day": "x" * 100_000}, "no"),
    ]
    found = log_of("log", iter(made))
    assert list(found.records) == [replace(row, label=None) for row in made]
    assert type(found.records[0].fields["on"]) is bool
    tracemalloc.start()
    held = log_of("log", (Record(str(i), {"text": f"{i}" + "x" * 10_000}, str(i % 2)) for i in range(1000)))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 1000
    assert size < 2_000_000  # of ten million characters


def test_a_time_delay_needs_times():
    with pytest.raises(ValueError, match=r"no times.*--time"):
        log(3, timed=False, delay=Span.of("3d"))


def test_a_column_of_times_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no column 'aa'.*did you mean 'a'"):
        log(3, delay="aa")


def test_classes_are_texts_and_whole_numbers_are_written_as_such():
    made = [Record(str(i), {"x": 1.0}, float(i % 2)) for i in range(4)]
    assert log_of("log", made).labels == ("0", "1", "0", "1")


def test_regression_takes_numbers_only():
    with pytest.raises(ValueError, match=r"row 1 is 'yes', but regression needs"):
        log_of("log", [Record("a", {"x": 1.0}, "yes")], regression=True)


def test_the_warm_up_is_a_share_or_rows():
    made = log(200)
    assert made.warm_up("10%") == 20
    assert made.warm_up("50") == 50


@pytest.mark.parametrize("size", ["0%", "100%", "0", "200", "-5"])
def test_a_warm_up_leaves_rows_before_and_after_it(size):
    with pytest.raises(ValueError, match=r"must leave rows"):
        log(200).warm_up(size)


def test_a_warm_up_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"a share such as 10%"):
        log(200).warm_up("some")


def test_a_warm_up_of_one_class_is_refused():
    made = [replace(row, label="no" if i < 50 else row.label) for i, row in enumerate(rows(200))]
    with pytest.raises(ValueError, match=r"one class alone, 'no'"):
        log_of("log", made).warm_up("20")


def test_a_warm_up_by_whose_end_no_label_had_come_is_refused():
    with pytest.raises(ValueError, match=r"no label had arrived by the end"):
        log(200, delay=Span.of(100)).warm_up("20")


def test_a_delay_that_lets_no_label_arrive_afterwards_is_refused():
    made = [replace(row, label=row.label if i < 20 else None) for i, row in enumerate(rows(200))]
    with pytest.raises(ValueError, match=r"no label ever arrives"):
        log_of("log", made).warm_up("50")


@pytest.mark.parametrize("text", ["3x", "-4", "1.5", "", "d"])
def test_a_span_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"a time such as 7d"):
        Span.of(text)


def test_a_fingerprint_tells_logs_apart():
    assert log(20).fingerprint() == log(20).fingerprint()
    assert log(20).fingerprint() != log(20, delay=Span.of(1)).fingerprint()
    assert log(20).fingerprint() != log(21).fingerprint()
