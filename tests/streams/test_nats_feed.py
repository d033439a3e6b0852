import asyncio
import json

import pytest
from streams.reading import drained, goes_on_from_each, names

from everlearn.streams.feed import Feed
from everlearn.streams.lost import LostError
from everlearn.streams.nats_feed import NatsFeed


@pytest.fixture
def ask(nats):
    """Runs a coroutine of JetStream, of its client."""
    import nats as library

    def asking(do):
        async def connected():
            connection = await library.connect(f"nats://127.0.0.1:{nats.port}")
            try:
                return await do(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(connected())

    asking(lambda stream: stream.add_stream(name="S", subjects=["rows.>"]))
    return asking


@pytest.fixture
def opened(nats):
    feeds = []

    def opening(stream="S", user="", **options):
        feeds.append(NatsFeed(f"nats://{user}127.0.0.1:{nats.port}/{stream}", **options))
        return feeds[-1]

    yield opening
    for feed in feeds:
        feed.close()


def put(ask, *numbers):
    async def publish(stream):
        for number in numbers:
            body = {"id": f"r{number}", "label": "a", "time": number, "x": number}
            await stream.publish("rows.a", json.dumps(body).encode())

    ask(publish)


def test_messages_are_rows_of_json(ask, opened):
    put(ask, 1)
    ask(lambda stream: stream.publish("rows.b", b"nonsense"))
    ask(lambda stream: stream.publish("rows.b", b'{"x": 1, "day": "m\xc3\xbcr"}'))
    feed = opened()
    assert isinstance(feed, Feed)
    first, odd, last = feed.read(10)
    assert (first.id, first.fields, first.label, first.time) == ("r1", {"x": 1.0}, "a", 1.0)
    assert odd.problem.startswith(f"{feed.name}, message 2: no JSON")
    assert (last.id, last.fields) == ("S:3", {"x": 1.0, "day": "mür"})


def test_from_each_position_the_rest_is_the_same_and_what_comes_twice_comes_twice(ask, opened):
    put(ask, 1, 2, 2, 3, 1, 5)
    feed = opened(follow=False)
    records = drained(feed, 4)
    assert names(records) == ["r1", "r2", "r2", "r3", "r1", "r5"]
    goes_on_from_each(feed, records)


def test_nothing_is_waited_for_long_and_what_comes_meanwhile_comes(ask, opened):
    feed = opened()
    assert feed.read(5, wait=0.1) == []
    put(ask, 1)
    assert names(feed.read(5, wait=5)) == ["r1"]
    assert not feed.ended


def test_the_group_is_told_only_what_was_acknowledged_and_decides_nothing(ask, opened):
    put(ask, *range(10))
    feed = opened(group="readers")
    records = feed.read(6, wait=5)
    assert ask(lambda stream: stream.consumer_info("S", "readers")).ack_floor.stream_seq == 0
    for i in (2, 3):
        feed.acknowledge(records[i].position)
        until = 100
        while ask(lambda stream: stream.consumer_info("S", "readers")).ack_floor.stream_seq != i + 1:
            until -= 1
            assert until
    again = opened(group="readers")
    again.seek(records[1].position)  # the checkpoint is older than the group
    assert names(again.read(100, wait=5)) == [f"r{i}" for i in range(2, 10)]


def test_a_reader_without_a_group_leaves_nothing_behind(ask, opened):
    put(ask, 1)
    feed = opened()
    assert len(feed.read(1, wait=5)) == 1
    feed.close()
    assert ask(lambda stream: stream.consumers_info("S")) == []


@pytest.mark.parametrize("group", ["", "readers"])
def test_a_server_that_is_killed_and_comes_back_costs_no_row(group, ask, opened, nats):
    put(ask, *range(5))
    feed = opened(group=group)
    records = feed.read(3, wait=5)
    nats.kill()
    assert feed.read(3, wait=0.1) == []
    assert "Connect call failed" in feed.trouble
    feed.acknowledge(records[-1].position)
    nats.start()
    while len(records) < 5:
        records += feed.read(10, wait=20)
    assert feed.trouble == ""
    nats.kill()
    nats.start()
    put(ask, 5, 6)
    while len(records) < 7:
        records += feed.read(10, wait=20)
    assert names(records) == [f"r{i}" for i in range(7)]
    assert feed.read(10) == []


def test_messages_that_were_deleted_before_they_were_read_are_noticed_and_others_not(ask, opened):
    put(ask, *range(10))
    feed = opened()
    records = feed.read(4, wait=5)
    ask(lambda stream: stream.purge_stream("S", seq=5))
    records += feed.read(2, wait=5)
    ask(lambda stream: stream.purge_stream("S", seq=8))
    for reader in (feed, opened()):
        reader.seek(records[-1].position)
        for _ in range(2):
            with pytest.raises(LostError, match="messages 7 to 7 were deleted before they were read"):
                reader.read(5, wait=1)
    feed.seek(None)  # who knows that reads on with what is there
    assert names(feed.read(100, wait=5)) == ["r7", "r8", "r9"]


def test_messages_that_were_taken_out_one_by_one_are_no_loss(ask, opened):
    put(ask, *range(8))
    for number in (2, 4, 5):
        ask(lambda stream, number=number: stream.delete_msg("S", number))
    feed = opened()
    records = feed.read(100, wait=5)
    assert names(records) == ["r0", "r2", "r5", "r6", "r7"]
    feed.seek({"seq": 2, "check": 0})
    assert feed.read(100, wait=5) == records[1:]


def test_messages_that_vanish_under_a_reader_are_noticed(ask, opened):
    put(ask, *range(4))
    feed = opened()
    assert len(feed.read(4, wait=5)) == 4
    put(ask, *range(4, 8))
    ask(lambda stream: stream.purge_stream("S", seq=7))
    for _ in range(2):
        with pytest.raises(LostError, match="messages 5 to 6 were deleted before they were read"):
            feed.read(4, wait=5)


def test_numbers_that_are_given_again_are_noticed(ask, opened):
    put(ask, *range(5))
    position = opened().read(5, wait=5)[-1].position

    def anew(count):
        ask(lambda stream: stream.delete_stream("S"))
        ask(lambda stream: stream.add_stream(name="S", subjects=["rows.>"]))
        put(ask, *range(10, 10 + count))
        feed = opened()
        feed.seek(position)
        return feed

    with pytest.raises(LostError, match="message 5 was read, but the server has only 3; it lost some"):
        anew(3).read(1)
    with pytest.raises(LostError, match="message 5 is another than it was"):
        anew(8).read(1)


def test_a_stream_that_is_not_there_or_a_work_queue_is_refused(ask, opened):
    ask(lambda stream: stream.add_stream(name="rows", subjects=["other"]))
    with pytest.raises(ValueError, match=r"no such stream \(did you mean 'rows'\?\)"):
        opened("row").read(1)
    ask(lambda stream: stream.add_stream(name="W", subjects=["work"], retention="workqueue"))
    with pytest.raises(ValueError, match="is a work queue, which cannot be read from a position"):
        opened("W").read(1)


def test_no_error_and_no_name_holds_the_password(ask, opened, nats):
    feed = opened(user="who:s3cret@")
    assert feed.name == f"nats://127.0.0.1:{nats.port}/S"
    nats.kill()
    with pytest.raises(ConnectionError, match="Connect call failed") as error:
        feed.read(1, wait=0.1)
    assert "s3cret" not in str(error.value)
    nats.options = (*nats.options, "--user", "who", "--pass", "s3cret")
    nats.start()
    assert feed.read(1, wait=1) == []
    assert feed.trouble == ""
    with pytest.raises(ValueError, match="Authorization") as error:
        opened(user="who:wr0ng@").read(1)
    assert "wr0ng" not in str(error.value)


def test_what_is_no_position_is_refused(opened):
    with pytest.raises(ValueError, match="no position in a stream of NATS"):
        opened().seek(3)
