import json
from contextlib import closing

import pytest
from streams.reading import drained, goes_on_from_each, names

from everlearn.streams.feed import Feed
from everlearn.streams.lost import LostError
from everlearn.streams.redis_feed import RedisFeed


@pytest.fixture
def client(redis):
    from redis import Redis

    with closing(Redis(port=redis.port, protocol=2)) as client:
        yield client


@pytest.fixture
def opened(redis):
    feeds = []

    def opening(stream="s", user="", **options):
        feeds.append(RedisFeed(f"redis://{user}127.0.0.1:{redis.port}/{stream}", **options))
        return feeds[-1]

    yield opening
    for feed in feeds:
        feed.close()


def put(client, *numbers):
    for number in numbers:
        client.xadd("s", {"body": json.dumps({"id": f"r{number}", "label": "a", "time": number, "x": number})})


def test_entries_are_rows_of_json_or_of_texts(client, opened):
    put(client, 1)
    client.xadd("s", {"x": "2.5", "day": "mür", "label": "b", "time": "1970-01-01"})
    client.xadd("s", {"body": "nonsense"})
    client.xadd("s", {b"\xff": "1"})
    feed = opened()
    assert isinstance(feed, Feed)
    json_, texts, odd, odder = feed.read(10)
    assert (json_.id, json_.fields, json_.label, json_.time) == ("r1", {"x": 1.0}, "a", 1.0)
    assert (texts.fields, texts.label, texts.time) == ({"x": 2.5, "day": "mür"}, "b", 0.0)
    assert texts.id == f"s:{texts.position['id']}"
    assert odd.problem.startswith(f"{feed.name}, entry {odd.position['id']}: no JSON")
    assert "UTF-8" in odder.problem


def test_from_each_position_the_rest_is_the_same_and_what_comes_twice_comes_twice(client, opened):
    put(client, 1, 2, 2, 3, 1, 5)
    feed = opened(follow=False)
    records = drained(feed, 4)
    assert names(records) == ["r1", "r2", "r2", "r3", "r1", "r5"]
    goes_on_from_each(feed, records)


def test_nothing_is_waited_for_longer_than_asked_and_what_comes_meanwhile_comes(client, opened):
    feed = opened()
    assert feed.read(5) == []
    assert feed.read(5, wait=0.05) == []
    put(client, 1)
    assert names(feed.read(5, wait=5)) == ["r1"]
    assert not feed.ended


def test_the_group_is_told_only_what_was_acknowledged_and_decides_nothing(client, opened):
    put(client, *range(10))
    feed = opened(group="readers")
    records = feed.read(6)
    assert client.xinfo_groups("s") == []
    for i in (2, 3):
        feed.acknowledge(records[i].position)
        (group,) = client.xinfo_groups("s")
        assert group["last-delivered-id"].decode() == records[i].position["id"]
        assert (group["pending"], group["entries-read"], group["lag"]) == (0, i + 1, 9 - i)
    again = opened(group="readers")
    again.seek(records[1].position)  # the checkpoint is older than the group
    assert names(again.read(100)) == [f"r{i}" for i in range(2, 10)]
    opened().acknowledge(records[5].position)
    assert client.xinfo_groups("s") == [group]


def test_a_server_that_is_killed_and_comes_back_costs_no_row(client, opened, redis):
    put(client, *range(5))
    feed = opened(group="readers")
    records = feed.read(3)
    redis.kill()
    assert feed.read(3, wait=0.1) == []
    assert "Connection refused" in feed.trouble
    feed.acknowledge(records[-1].position)
    redis.start()
    records += feed.read(10, wait=20)
    assert feed.trouble == ""
    assert client.xinfo_groups("s")[0]["entries-read"] == 3
    redis.kill()
    redis.start()
    put(client, 5, 6)
    while len(records) < 7:
        records += feed.read(10, wait=20)
    assert names(records) == [f"r{i}" for i in range(7)]
    assert feed.read(10) == []


def test_entries_that_were_trimmed_before_they_were_read_are_noticed_and_others_not(client, opened):
    put(client, *range(10))
    feed = opened()
    records = feed.read(4)
    client.xtrim("s", maxlen=6, approximate=False)
    records += feed.read(2)
    client.xtrim("s", maxlen=3, approximate=False)
    for reader in (feed, opened()):
        reader.seek(records[-1].position)
        for _ in range(2):
            with pytest.raises(LostError, match=r"1 entries behind .* were deleted before they were read"):
                reader.read(5)
    feed.seek(None)  # who knows that reads on with what is there
    rest = feed.read(100)
    assert names(rest) == ["r7", "r8", "r9"]
    client.xtrim("s", maxlen=0, approximate=False)
    put(client, 10)
    assert names(feed.read(5)) == ["r10"]


def test_a_stream_that_was_made_anew_or_lost_entries_is_noticed(client, opened):
    put(client, *range(5))
    feed = opened()
    position = feed.read(5)[-1].position
    client.delete("s")
    with pytest.raises(LostError, match="the server lost some, or the stream was made anew"):
        feed.read(5)
    client.xadd("s", {"body": "{}"}, id=position["id"])
    for _ in range(9):
        client.xadd("s", {"body": "{}"})
    with pytest.raises(LostError, match="is another than it was"):
        feed.read(5)


def test_no_error_and_no_name_holds_the_password(client, opened, redis):
    client.config_set("requirepass", "s3cret")
    feed = opened(user="who:wr0ng@")
    assert feed.name == f"redis://127.0.0.1:{redis.port}/s"
    with pytest.raises(ValueError, match="invalid username-password pair") as error:
        feed.read(1)
    assert "wr0ng" not in str(error.value)
    assert opened(user=":s3cret@").read(1) == []
    redis.kill()
    with pytest.raises(ConnectionError, match="refused") as error:
        opened(user=":s3cret@").read(1, wait=0.1)
    assert "s3cret" not in str(error.value)


def test_what_is_no_position_is_refused(opened):
    with pytest.raises(ValueError, match="no position in a stream of Redis"):
        opened().seek({"id": "1-0"})
