import json

import pytest

from everlearn.streams.feed import Feed
from everlearn.streams.folder_feed import FolderFeed
from everlearn.streams.lost import LostError


@pytest.fixture
def folder(tmp_path):
    for name, first in (("01.csv", 0), ("02.csv", 3), ("04.csv", 6)):
        put(tmp_path, name, range(first, first + 3))
    (tmp_path / "03.csv.part").write_text("x,label\n99,a\n")
    (tmp_path / "_SUCCESS.csv").write_text("x,label\n99,a\n")
    (tmp_path / "README.md").write_text("rows")
    (tmp_path / "05.csv").mkdir()
    return tmp_path


def put(folder, name, values):
    """As whoever writes must do it: complete, then renamed."""
    hidden = folder / f".{name}"
    hidden.write_text("x,label\n" + "".join(f"{value},a\n" for value in values))
    hidden.rename(folder / name)


def drained(feed, most=2):
    records = []
    while not feed.ended:
        records += feed.read(most)
    return records


def values(records):
    return [int(record.fields["x"]) for record in records]


@pytest.fixture
def opened():
    feeds = []

    def opening(folder, **options):
        feeds.append(FolderFeed(folder, **options))
        return feeds[-1]

    yield opening
    for feed in feeds:
        feed.close()


def test_complete_files_come_in_the_order_of_their_names(folder, opened):
    feed = opened(folder)
    assert isinstance(feed, Feed)
    records = drained(feed)
    assert values(records) == list(range(9))
    assert [record.id for record in records[2:4]] == ["01.csv:3", "02.csv:1"]


def test_from_each_position_the_rest_is_the_same(folder, opened):
    records = drained(opened(folder))
    feed = opened(folder)
    for i, record in reversed(list(enumerate(records))):
        feed.seek(json.loads(json.dumps(record.position)))
        assert drained(feed, 5) == records[i + 1 :]
    feed.seek(None)
    assert drained(feed) == records


def test_a_folder_that_fills_is_waited_for(folder, opened):
    feed = opened(folder, follow=True)
    assert sum(len(feed.read(100)) for _ in range(5)) == 9
    put(folder, "06.csv", [9])
    (folder / "03.csv.part").rename(folder / "07.csv")
    assert values(feed.read(100, wait=5)) == [9]
    assert values(feed.read(100)) == [99]
    assert (feed.read(100), feed.ended) == ([], False)


def test_a_file_that_turns_up_before_the_last_one_is_told_at_once_and_after_a_restart(folder, opened):
    feed = opened(folder, follow=True)
    records = [record for _ in range(5) for record in feed.read(100)]
    put(folder, "03.csv", [7])
    with pytest.raises(LostError, match=r"03\.csv turned up after 04\.csv was read; names must sort"):
        feed.read(100)
    for i in (6, 8):
        with pytest.raises(LostError, match=r"3 files come before 04\.csv, and 2 did"):
            opened(folder, follow=True).seek(records[i].position)
    feed = opened(folder)
    feed.seek(records[3].position)  # it is not too late for this reader
    assert values(drained(feed)) == [4, 5, 7, 6, 7, 8]
    (folder / "03.csv").rename(folder / "06.csv")
    feed = opened(folder)
    feed.seek(records[8].position)
    assert values(drained(feed)) == [7]


def test_files_that_were_read_may_go(folder, opened):
    records = drained(opened(folder))
    (folder / "01.csv").unlink()
    feed = opened(folder)
    feed.seek(records[7].position)
    assert values(drained(feed)) == [8]
    (folder / "04.csv").unlink()
    with pytest.raises(LostError, match=r"has no 04\.csv any more, of which row 2 was the last that was read"):
        opened(folder).seek(records[7].position)


def test_a_file_that_grows_while_it_is_read_is_an_error(folder, opened):
    feed = opened(folder)
    feed.read(1)
    with (folder / "01.csv").open("a") as file:
        file.write("3,a\n")
    with pytest.raises(LostError, match="changed while it was read"):
        drained(feed)


def test_other_kinds_of_files_and_bad_rows_may_be_among_them(folder, opened):
    (folder / "08.jsonl").write_text('{"x": 9}\n{"x"\n')
    records = drained(opened(folder))
    assert values(records[:-1]) == list(range(10))
    assert records[-1].problem.startswith(f"{folder / '08.jsonl'}, line 2: no JSON")
    feed = opened(folder)
    feed.seek(records[-1].position)
    assert drained(feed) == []


@pytest.mark.parametrize("position", [3, {}, {"file": "01.csv"}, []])
def test_what_is_no_position_is_refused(folder, opened, position):
    with pytest.raises(ValueError, match="no position in a folder"):
        opened(folder).seek(position)


def test_an_empty_folder_has_no_rows_and_a_file_is_no_folder(tmp_path, opened):
    assert drained(opened(tmp_path)) == []
    (tmp_path / "rows.csv").touch()
    with pytest.raises(NotADirectoryError):
        opened(tmp_path / "rows.csv")
