import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.streams.feed import Feed, Record
from everlearn.streams.layout import Layout
from everlearn.streams.lost import LostError
from everlearn.streams.table_feed import table_feed as any_table_feed

ROWS = [
    {
        "id": f"r{i}",
        "time": 60.0 * i,
        "height": i / 4,
        "day": ("mon", "tue", 'müde, "alt"\nneu')[i % 3],
        "label": "ab"[i % 2],
    }
    for i in range(9)
]
KINDS = ["csv", "tsv", "csv.gz", "jsonl", "ndjson.gz", "parquet"]
every_kind = pytest.mark.parametrize("kind", KINDS)


OPENED = []


def table_feed(*args, **options):
    """A feed that is closed after the test."""
    OPENED.append(any_table_feed(*args, **options))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPENED:
        OPENED.pop().close()


def text_of(rows, kind):
    if "json" in kind or kind == "ndjson":
        return "".join(json.dumps(row) + "\n" for row in rows)
    out = io.StringIO()
    lines = csv.DictWriter(out, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
    lines.writeheader()
    lines.writerows(rows)
    return out.getvalue()


def written(folder, kind, rows=ROWS, **options):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, **{"row_group_size": 4, **options})
    else:
        opened = gzip.open if kind.endswith("gz") else open
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            file.write(text_of(rows, kind.removesuffix(".gz")))
    return path


def drained(feed, most=2):
    records = []
    while not feed.ended:
        some = feed.read(most)
        assert len(some) <= most
        records += some
    return records


def bare(records):
    return [replace(record, position=None) for record in records]


def read(tmp_path, content, name="rows.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return drained(table_feed(path, Layout(**options)))


@every_kind
def test_rows_come_as_they_were_written(kind, tmp_path):
    feed = table_feed(written(tmp_path, kind))
    assert isinstance(feed, Feed)
    expected = [Record(r["id"], {"height": r["height"], "day": r["day"]}, r["label"], r["time"]) for r in ROWS]
    assert bare(drained(feed)) == expected
    assert feed.read(5) == []


@every_kind
def test_from_each_position_the_rest_is_the_same(kind, tmp_path):
    path = written(tmp_path, kind)
    records = drained(table_feed(path))
    feed = table_feed(path)
    for most in (1, 100):
        for i, record in reversed(list(enumerate(records))):
            feed.seek(json.loads(json.dumps(record.position)))
            assert drained(feed, most) == records[i + 1 :]
        feed.seek(None)
        assert drained(feed, most) == records


@every_kind
def test_a_position_in_another_file_is_refused(kind, tmp_path):
    position = drained(table_feed(written(tmp_path, kind)))[5].position
    other = [dict(row) for row in ROWS]
    other[5]["day"] = "sun"
    feed = table_feed(written(tmp_path, kind, other))
    with pytest.raises(LostError, match="not the file that was read before"):
        feed.seek(position)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "csv.gz"])
def test_a_position_behind_the_end_of_a_file_that_was_cut_off_is_refused(kind, tmp_path):
    position = drained(table_feed(written(tmp_path, kind)))[5].position
    feed = table_feed(written(tmp_path, kind, ROWS[:3]))
    with pytest.raises(LostError, match="row 6"):
        feed.seek(position)


@every_kind
@pytest.mark.parametrize("position", [7, {}, {"row": "x"}, "abc", []])
def test_what_is_no_position_is_refused(kind, position, tmp_path):
    with pytest.raises(ValueError, match="is no position"):
        table_feed(written(tmp_path, kind)).seek(position)


def test_a_row_without_an_id_has_the_number_of_its_row_and_keeps_it_after_a_seek(tmp_path):
    records = read(tmp_path, "x,y\n1,a\n\n2,b\nbad\n3,c\n")
    assert [record.id for record in records] == ["rows.csv:1", "rows.csv:2", "rows.csv:3", "rows.csv:4"]
    feed = table_feed(tmp_path / "rows.csv")
    feed.seek(records[1].position)
    assert drained(feed) == records[2:]


def test_a_row_that_cannot_be_read_is_a_problem_with_its_place_and_the_next_goes_on(tmp_path):
    content = b'x,y,label\n1,2,a\n1,2,3,a\n"1\n",2,b\n3,"4"5,a\n\xff,1,b\n5,6,a\n7,8\n9,1,c\n'
    records = read(tmp_path, content)
    path = tmp_path / "rows.csv"
    assert [record.problem for record in records] == [
        "",
        f"{path}, line 3: 3 cells expected, 4 found",
        "",
        f"{path}, line 6: ',' expected after '\"'",
        f"{path}, line 7: it is not in UTF-8",
        "",
        f"{path}, line 9: 3 cells expected, 2 found",
        "",
    ]
    assert all(record.fields == {} and record.label is None for record in records if record.problem)
    assert [record.label for record in records if not record.problem] == ["a", "b", "a", "c"]
    feed = table_feed(path)
    for i, record in enumerate(records):
        feed.seek(record.position)
        assert drained(feed, 3) == records[i + 1 :]


def test_a_quote_that_is_never_closed_costs_one_line_and_not_the_file(tmp_path):
    rows = [f"{i},a" for i in range(30_000)]
    rows[3] = '"3,a'
    records = read(tmp_path, "x,label\n" + "\n".join(rows) + "\n")
    assert len(records) == 30_000
    assert [i for i, record in enumerate(records) if record.problem] == [3]
    assert records[4].fields == {"x": 4.0}
    records = read(tmp_path, 'x,label\n1,a\n"2,a\n3,a\n4,a')
    assert [bool(record.problem) for record in records] == [False, True, False, False]


@pytest.mark.parametrize(("kind", "followed"), [("csv", False), ("csv", True), ("jsonl", True), ("csv.gz", False)])
def test_a_line_that_is_too_long_is_a_problem_and_takes_no_memory(kind, followed, tmp_path, monkeypatch):
    monkeypatch.setattr("everlearn.streams.table_feed.LONGEST", 2**17)
    path = written(tmp_path, kind, ROWS[:2])
    opened = gzip.open if kind.endswith("gz") else open
    with opened(path, "ab") as file:
        for start in (b"", b'"', b" "):
            file.write(start)
            for _ in range(25):
                file.write((b" " if start else b"7,") * 2**16)
            file.write(
                b"\n" + text_of(ROWS[2:4], kind.removesuffix(".gz")).split("\n", "json" not in kind)[-1].encode()
            )
    tracemalloc.start()
    try:
        feed = table_feed(path, follow=followed)
        records = feed.read(100) if followed else drained(feed)
        for i, record in enumerate(records):
            feed.seek(json.loads(json.dumps(record.position)))
            assert feed.read(100) == records[i + 1 :]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [bool(record.problem) for record in records] == [False] * 2 + [True, False, False] * 3
    assert "bytes, but a row has 131,072 at most" in records[2].problem
    assert peak < 1_500_000
    (tmp_path / "head.csv").write_bytes(b"x," * 2**17)
    with pytest.raises(ValueError, match="the header cannot be read: it has"):
        table_feed(tmp_path / "head.csv").read(1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "no JSON"),
        ("[1]", "an object of fields expected"),
        ('{"x": [1]}', "'x' must be a number, a truth value or a text"),
        ('{"x": 1, "time": "soon"}', "the time 'soon' is neither seconds since 1970 nor ISO 8601"),
        ('{"x": 1, "time": 1700000000000}', "milliseconds"),
        ('{"x": 1, "id": 1.5}', "the id must be"),
        ('{"x": 1, "label": NaN}', "the label is nan"),
        ('{"x": 1, "y": "a", "class": "b"}', "both of"),
        ('{"x": "\\ud800"}', "it is not in UTF-8"),
        ('{"x": 1' + "0" * 400 + "}", "too large"),
        ("[" * 100_000, "no JSON"),
        ('{"label": "a"}', "a label without an id belongs to no row"),
        ('{"id": "a"}', "nothing is in it"),
    ],
)
def test_a_line_that_is_no_row_of_json_is_a_problem(line, why, tmp_path):
    good = '{"x": 1}'
    first, odd, last = read(tmp_path, f"{good}\n{line}\n{good}\n", "rows.jsonl")
    assert odd.problem.startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")
    assert why in odd.problem
    assert (first.fields, last.fields, first.problem + last.problem) == ({"x": 1.0}, {"x": 1.0}, "")


def test_texts_that_are_numbers_become_numbers_as_python_reads_them_and_what_is_empty_is_missing(tmp_path):
    (record,) = read(tmp_path, "a,b,c,d,e,f,g\n1,-2.5e3, 7,1_000,tue,,inf\n")
    assert record.fields == {"a": 1.0, "b": -2500.0, "c": 7.0, "d": "1_000", "e": "tue", "g": float("inf")}
    (record,) = read(tmp_path, "zip,x\n01234,5\n", texts=("zip",))
    assert record.fields == {"zip": "01234", "x": 5.0}


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("12.5", 12.5),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:00:01", 1.0),
        ("1970-01-01 01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("", None),
    ],
)
def test_times_are_seconds_or_iso_8601_and_without_a_zone_utc(time, seconds, tmp_path):
    (record,) = read(tmp_path, f"when,x\n{time},1\n", time="when")
    assert record.time == seconds
    assert record.fields == {"x": 1.0}


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (None, ["rain", 1.0, 0.5, 7.0]),
        ("classification", ["rain", "1", None, "007"]),
        ("regression", [None, 1.0, 0.5, 7.0]),
    ],
)
def test_the_task_says_what_labels_are(task, labels, tmp_path):
    records = read(tmp_path, "x,y\n1,rain\n1,1.0\n1,0.5\n1,007\n", task=task)
    assert [record.label for record in records] == labels
    assert [bool(record.problem) for record in records] == [label is None for label in labels]


def test_a_class_has_one_name_in_all_kinds_of_files(tmp_path):
    rows = [{"x": 1.0, "label": label} for label in (3, 0, 12)]
    for kind in ("csv", "jsonl", "parquet"):
        feed = table_feed(written(tmp_path, kind, rows), Layout(task="classification"))
        assert [record.label for record in drained(feed)] == ["3", "0", "12"]


def test_labels_may_come_later_as_rows_that_have_nothing_else(tmp_path):
    row, label = read(tmp_path, "id,x,label\nr1,2,\nr1,,sun\n")
    assert (row.label, row.is_label, label.label, label.is_label) == (None, False, "sun", True)


def test_features_are_the_fields_in_their_order(tmp_path):
    (record,) = read(tmp_path, "a,b,c,target\n1,2,3,x\n", features=("c", "a"))
    assert list(record.fields.items()) == [("c", 3.0), ("a", 1.0)]
    assert record.label == "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "lable"}, "no column 'lable' for label: did you mean 'label'"),
        ({"features": ("a", "bb")}, "no column 'bb' for features"),
        ({"time": "when"}, "no column 'when' for time"),
        ({"features": ("a", "label")}, "different columns beside the label"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_an_error_with_the_nearest_name(options, message, kind, tmp_path):
    path = written(tmp_path, kind, [{"a": 1, "b": 2, "label": "x"}])
    with pytest.raises(ValueError, match=message):
        table_feed(path, Layout(**options)).read(1)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_the_cells(tmp_path):
    (record,) = read(tmp_path, b"\xef\xbb\xbfx,day\r\n1,tue\r\n")
    assert record.fields == {"x": 1.0, "day": "tue"}
    (record,) = read(tmp_path, b'\xef\xbb\xbf{"x": 1}\r\n', "rows.jsonl")
    assert record.fields == {"x": 1.0}


@pytest.mark.parametrize("content", ["", "\n\n", "x,y\n", "x,y"])
def test_an_empty_file_or_a_header_alone_has_no_rows(content, tmp_path):
    assert read(tmp_path, content) == []
    assert read(tmp_path, "", "rows.jsonl") == []


@pytest.mark.parametrize("header", [b"x,x\n1,2\n", b"x,\n1,2\n", "x,y\n1,2\n".encode("utf-16")])
def test_a_header_that_is_none_is_an_error(header, tmp_path):
    with pytest.raises(ValueError, match=r"rows\.csv"):
        read(tmp_path, header)


def test_the_last_line_needs_no_end_but_may_not_go_on_behind_a_position(tmp_path):
    (_, last) = read(tmp_path, "x\n1\n2")
    path = tmp_path / "rows.csv"
    for grown, expected in ((b"\n3\n", [3.0]), (b"\r\n3\n", [3.0]), (b"", [])):
        path.write_bytes(b"x\n1\n2" + grown)
        feed = table_feed(path)
        feed.seek(last.position)
        assert [record.fields["x"] for record in drained(feed)] == expected
    path.write_bytes(b"x\n1\n25\n3\n")
    with pytest.raises(LostError, match="went on growing"):
        table_feed(path).seek(last.position)


def test_a_damaged_archive_gives_the_rows_before_the_damage_and_then_an_error(tmp_path):
    path = tmp_path / "rows.csv.gz"
    whole = gzip.compress(text_of([{"x": os.urandom(8).hex()} for _ in range(20_000)], "csv").encode())
    path.write_bytes(whole[: len(whole) // 2])
    parts = []
    with pytest.raises(ValueError, match="cannot be read"):
        parts.extend(iter(partial(table_feed(path).read, 100), []))
    assert 10 < len(parts) < 200


def test_parquet_reads_the_types_that_are_fields_and_refuses_the_rest(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "id": pa.array([2**60 + 1, 3]),
            "time": pa.array([1_500_000, None], pa.timestamp("us")),
            "day": pa.array([0, 1], pa.date32()),
            "n": pa.array([1, None], pa.int8()),
            "b": [True, False],
            "c": pa.array(["x", "y"]).dictionary_encode(),
            "l": [[1], [2]],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="'l' holds list"):
        table_feed(tmp_path / "rows.parquet")
    first, second = table_feed(tmp_path / "rows.parquet", Layout(features=("day", "n", "b", "c"))).read(5)
    assert (first.id, first.time, first.fields) == (str(2**60 + 1), 1.5, {"day": 0.0, "n": 1.0, "b": True, "c": "x"})
    assert (second.id, second.time, second.fields) == ("3", None, {"day": 86400.0, "b": False, "c": "y"})


def test_what_is_no_table_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="no table by its name"):
        table_feed(tmp_path / "rows.txt")
    with pytest.raises(ValueError, match="does not grow"):
        table_feed(written(tmp_path, "parquet"), follow=True)
    with pytest.raises(ValueError, match="does not grow"):
        table_feed(written(tmp_path, "csv.gz"), follow=True)
    (tmp_path / "odd.parquet").write_bytes(b"PAR1 is not all")
    with pytest.raises(ValueError, match="no Parquet file"):
        table_feed(tmp_path / "odd.parquet")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.integers(1, 4))
def test_what_the_csv_module_writes_is_read_back_cell_by_cell(tmp_path_factory, rows, most):
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["a", "b"])
        lines.writerows((f"1{a}", f"1{b}") for a, b in rows)
    records = drained(table_feed(path, Layout(texts=("a", "b"))), most)
    assert [(record.fields["a"], record.fields["b"]) for record in records] == [(f"1{a}", f"1{b}") for a, b in rows]
    feed = table_feed(path, Layout(texts=("a", "b")))
    for i, record in enumerate(records):
        feed.seek(record.position)
        assert drained(feed, most) == records[i + 1 :]


WRITER = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    for i, byte in enumerate(sys.stdin.buffer.read()):
        file.write(bytes([byte]))
        if i % 3 == 0:
            time.sleep(0.0005)
"""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_that_grows_byte_by_byte_is_read_line_by_line(kind, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = drained(table_feed(written(whole, kind)))
    path = tmp_path / f"rows.{kind}"
    path.touch()
    feed, records = table_feed(path, follow=True), []
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE)
    writer.stdin.write((whole / f"rows.{kind}").read_bytes())
    writer.stdin.close()
    while len(records) < len(expected):
        records += feed.read(3, wait=5)
        if records:  # as after a kill
            feed.close()
            feed = table_feed(path, follow=True)
            feed.seek(records[-1].position)
    assert records == expected
    assert writer.wait() == 0
    assert feed.read(3) == []
    assert not feed.ended


def test_half_a_line_and_half_a_cell_in_quotes_are_waited_for(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,day")
    feed = table_feed(path, follow=True)
    with path.open("a") as file:
        for part, expected in [
            ("\n1,tu", []),
            ("e\n2", ["tue"]),
            (',"a\n', []),
            ("b\n", []),
            ('c"\n3,x\n', ["a\nb\nc", "x"]),
        ]:
            file.write(part)
            file.flush()
            assert [record.fields["day"] for record in feed.read(9)] == expected
            assert feed.read(9) == []


def test_a_file_that_is_cut_off_replaced_or_written_over_while_it_is_followed_is_noticed(tmp_path):
    path = tmp_path / "rows.csv"
    for i, other in enumerate(("x\n", "x\n1\n", "x\n1\n3\n", "x\n1\n3\n4\n5\n6\n", "y\n1\n")):
        path.write_text("x\n1\n2\n")
        feed = table_feed(path, follow=True)
        assert len(feed.read(5)) == 2
        assert feed.read(5) == []
        path.write_text(other)
        os.utime(path, (i, i))
        with pytest.raises(LostError, match="not the file that was read before, or was cut off"):
            feed.read(5, wait=1)
        feed.close()


def test_a_file_that_is_written_anew_with_more_rows_goes_on(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x\n1\n2\n")
    feed = table_feed(path, follow=True)
    assert len(feed.read(5)) == 2
    assert feed.read(5) == []
    Path(path).rename(tmp_path / "old.csv")
    assert feed.read(5) == []  # it may be about to come
    (tmp_path / "new.csv").write_text("x\n1\n2\n3\n")
    (tmp_path / "new.csv").rename(path)
    assert [record.fields["x"] for record in feed.read(5, wait=5)] == [3.0]


def test_memory_stays_flat_however_long_the_file_is(tmp_path):
    path = tmp_path / "rows.csv"
    rows = int(os.environ.get("EVERLEARN_ROWS", "30000"))
    with path.open("w") as file:
        file.write("a,b,c,label\n")
        file.writelines(f"{i},{i + 1},{i + 2},x\n" for i in range(rows))
    feed, count = table_feed(path), len(table_feed(path).read(256))
    tracemalloc.start()
    try:
        while not feed.ended:
            count += len(feed.read(256))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == rows + 256
    assert peak < 4_000_000
