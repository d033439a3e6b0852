"""Bad rows are kept with their reason, once each, and too many of them stop a stream."""

import json

import pytest

from everlearn.online.lines import Lines
from everlearn.online.quarantine import Quarantine, QuarantineError
from everlearn.streams.feed import Record


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_bad_row_is_kept_with_its_place_its_reason_and_what_is_in_it(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    quarantine.add(Record("r1", {"x": float("nan"), "ü": "é"}, "rain", position=[1, 2]), "x is NaN")
    quarantine.add(Record("", {}, problem="no number", position=7), "no number")
    assert not quarantine.path.exists()
    quarantine.flush()
    assert read(quarantine.path) == [
        {"position": [1, 2], "id": "r1", "reason": "x is NaN", "fields": {"x": "nan", "ü": "é"}, "label": "rain"},
        {"position": 7, "id": "", "reason": "no number", "fields": {}},
    ]
    assert quarantine.count == 2


def test_what_json_cannot_hold_is_kept_as_text(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    quarantine.add(Record("r\ud800", {"x": b"\xff", "y": {"z": (1, float("inf"))}}), "odd")
    quarantine.flush()
    (line,) = read(quarantine.path)
    assert line["fields"] == {"x": "b'\\xff'", "y": {"z": [1, "inf"]}}


def test_after_a_restart_each_bad_row_is_there_once(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    for number in range(3):
        quarantine.add(Record(f"r{number}", {}), "bad")
    state = quarantine.state_dict()
    for number in range(3, 600):  # some of these are written before the process is killed, in full or in part
        quarantine.add(Record(f"r{number}", {}), "bad")
    with quarantine.path.open("a") as file:
        file.write('{"torn')
    again = Quarantine(quarantine.path)
    again.load_state_dict(state)
    assert again.count == 3
    for number in range(3, 600):
        again.add(Record(f"r{number}", {}), "bad")
    again.flush()
    assert [line["id"] for line in read(again.path)] == [f"r{number}" for number in range(600)]


def test_a_state_of_nothing_removes_what_was_written_after_it(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    state = quarantine.state_dict()
    quarantine.add(Record("r", {}), "bad")
    quarantine.flush()
    again = Quarantine(quarantine.path)
    again.load_state_dict(state)
    assert again.path.read_bytes() == b""


def test_a_file_that_lost_lines_is_not_gone_on_with(tmp_path):
    lines = Lines(tmp_path / "lines.jsonl")
    lines.append({"a": 1})
    size = lines.flush()
    lines.path.write_text("")
    with pytest.raises(ValueError, match=r"has 0 bytes, but had 9 when"):
        Lines(lines.path).cut(size)


def test_a_number_of_bad_rows_is_too_many(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", limit="2")
    for _ in range(2):
        quarantine.add(Record("r", {}), "bad")
        quarantine.check(records=10)
    quarantine.add(Record("r", {}), "bad")
    with pytest.raises(QuarantineError, match=r"3 of 10 records could not be read or learned, and the limit is 2"):
        quarantine.check(records=10)


def test_a_share_of_bad_rows_is_too_many_but_the_first_one_is_not(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", limit="1%")
    for _ in range(10):
        quarantine.add(Record("r", {}), "bad")
        quarantine.check(records=10)
    quarantine.add(Record("r", {}), "bad")
    quarantine.check(records=1100)
    with pytest.raises(QuarantineError, match="the limit is 1%"):
        quarantine.check(records=1099)


@pytest.mark.parametrize("wrong", ["many", "-1", "nan", "101%", "inf"])
def test_a_limit_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"a number \(100\) or a share \(1%\)"):
        Quarantine(tmp_path / "q", limit=wrong)
