import builtins

import pytest

from everlearn.streams.feed import Feed
from everlearn.streams.messages_feed import CAP, FIRST, Address, Backoff
from everlearn.streams.opening import open_feed


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("when,a,b,kind\n1,2,3,x\n")
    return path


def test_a_path_is_a_table_or_a_folder_of_tables(table):
    for text in (table, str(table), f"{table.parent}/"):
        feed = open_feed(text, label="kind", time="when", features="b")
        assert isinstance(feed, Feed)
        (record,) = feed.read(5)
        assert (record.fields, record.label, record.time) == ({"b": 3.0}, "x", 1.0)
        feed.close()
    feed = open_feed(table, follow=True)
    assert (len(feed.read(5)), feed.ended) == (1, False)
    feed.close()


@pytest.mark.parametrize("address", ["redis://h/s", "rediss://h/s", "nats://h:1/s", "tls://h/s", "kafka://h/s"])
def test_an_address_is_a_stream_of_a_server_which_is_asked_when_it_is_read(address):
    feed = open_feed(address, label="kind", group="g")
    assert isinstance(feed, Feed)
    assert feed.name.startswith(address.split("/s")[0])
    assert feed.layout.label == "kind"
    feed.close()


def test_options_of_a_server_may_stand_behind_its_address():
    feed = open_feed("kafka://h/s?partition=all&group=7&follow=false&sasl.username=a%40b&sasl.password=a+b", seed=3)
    assert (feed.name, feed.partition, feed.group, feed.follow) == ("kafka://h:9092/s", "all", "7", False)
    assert feed.settings == {"sasl.username": "a@b", "sasl.password": "a+b"}
    feed = open_feed("redis://h/s?database=2")
    assert (feed.database, feed.follow) == (2, True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("redsi://h/s", {}, r"no source redsi:// \(did you mean 'redis'\?\)"),
        ("kafka://h/s", {"partitions": 1}, r"no option 'partitions' \(did you mean 'partition'\?\)"),
        ("redis://h/s", {"partition": 1}, "redis has no option 'partition'"),
        ("redis://h/s?partition=1", {}, "redis has no option 'partition'"),
        ("nats://h/s?sasl.password=s3cret", {}, "nats has no option 'settings'"),
        ("redis://h/s?database=one", {}, "database must be a whole number, but is 'one'"),
        ("redis://h/s?follow=maybe", {}, "follow must be true or false"),
        ("redis://u:s3c?s3cret=1@h/s", {}, r"behind the \? of an address stand options"),
        ("redis://h:port/s", {}, "no number"),
        ("redis://u:s3cret@h", {}, "redis://h:6379/ is no address of a stream"),
        ("nats://h/a/b", {}, "no address of a stream"),
    ],
)
def test_what_is_not_known_is_an_error_with_the_nearest_name(text, options, message):
    with pytest.raises(ValueError, match=message) as error:
        open_feed(text, **options)
    assert "s3cret" not in str(error.value)


def test_a_path_that_is_not_there_is_an_error_with_the_nearest_name(table):
    with pytest.raises(FileNotFoundError, match=r"did you mean .*rows\.csv\?"):
        open_feed(table.parent / "row.csv")
    with pytest.raises(FileNotFoundError, match="there is no"):
        open_feed(table.parent / "nowhere" / "row.csv")
    with pytest.raises(ValueError, match=r"a file has no option 'folow' \(did you mean 'follow'\?\)"):
        open_feed(table, folow=True)


@pytest.mark.parametrize(
    ("text", "extra", "module"),
    [
        ("redis://h/s", "redis", "redis"),
        ("nats://h/s", "nats", "nats"),
        ("kafka://h/s", "kafka", "confluent_kafka"),
        ("FOLDER/rows.parquet", "tables", "pyarrow"),
    ],
)
def test_a_library_that_is_missing_is_named_by_its_extra(text, extra, module, monkeypatch, tmp_path):
    (tmp_path / "rows.parquet").touch()
    found = builtins.__import__

    def missing(name, *args):
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return found(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"pip install 'everlearn\[{extra}\]'"):
        open_feed(text.replace("FOLDER", str(tmp_path)))


def test_an_address_is_taken_apart_and_its_name_holds_no_secret():
    address = Address("redis://us%40er:p%2Fw@host:7000/str%20eam", 6379)
    assert (address.user, address.password, address.stream) == ("us@er", "p/w", "str eam")
    assert address.name == "redis://host:7000/str eam"


def test_waits_double_up_to_a_cap_differ_by_seed_and_are_the_same_again():
    def waits(seed):
        backoff = Backoff(seed)
        return [backoff.next() for _ in range(40)]

    assert waits(1) == waits(1) != waits(2)
    for n, wait in enumerate(waits(1)):
        whole = min(CAP, FIRST * 2**n)
        assert whole / 2 <= wait <= whole
    backoff = Backoff(0)
    drawn = [backoff.next() for _ in range(9)]
    backoff.reset()
    assert backoff.next() <= FIRST < drawn[-1]
