"""Against the cluster that librdkafka brings along for tests; topics have four partitions there."""

import json
import signal
import subprocess
import sys
import threading

import pytest
from streams.reading import drained, goes_on_from_each, names

from everlearn.streams import kafka_feed
from everlearn.streams.feed import Feed
from everlearn.streams.kafka_feed import AHEAD, KafkaFeed
from everlearn.streams.lost import LostError

PARTS = 4


@pytest.fixture(scope="module")
def producer():
    library = pytest.importorskip("confluent_kafka", reason="reading from Kafka needs confluent-kafka")
    return library.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "localhost:9", "log_level": 0})


@pytest.fixture(scope="module")
def broker(producer):
    (broker,) = producer.list_topics(timeout=20).brokers.values()
    return f"{broker.host}:{broker.port}"


@pytest.fixture
def topic(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def put(producer, topic):
    def putting(*bodies, partition=0):
        for body in bodies:
            row = {"id": f"r{partition}-{body}", "label": "a", "time": body, "x": body}
            producer.produce(topic, body if isinstance(body, bytes) else json.dumps(row), partition=partition)
        assert producer.flush(20) == 0

    return putting


@pytest.fixture
def opened(broker, topic):
    feeds = []

    def opening(of=topic, **options):
        feeds.append(KafkaFeed(f"kafka://{broker}/{of}", **options))
        return feeds[-1]

    yield opening
    for feed in feeds:
        feed.close()


def test_messages_are_rows_of_json(put, opened, topic):
    put(1, b"nonsense", '{"x": 1, "day": "mür"}'.encode())
    feed = opened(partition=0)
    assert isinstance(feed, Feed)
    records = []
    while len(records) < 3:
        records += feed.read(10, wait=10)
    first, odd, last = records
    assert (first.id, first.fields, first.label, first.time) == ("r0-1", {"x": 1.0}, "a", 1.0)
    assert odd.problem.startswith(f"{feed.name}, partition 0, offset 1: no JSON")
    assert (last.id, last.fields) == (f"{topic}:0:2", {"x": 1.0, "day": "mür"})


def test_from_each_position_the_rest_is_the_same_and_what_comes_twice_comes_twice(put, opened):
    put(1, 2, 2, 1, 5)
    feed = opened(partition=0, follow=False)
    records = drained(feed, 2)
    assert names(records) == ["r0-1", "r0-2", "r0-2", "r0-1", "r0-5"]
    goes_on_from_each(feed, records)


def test_partitions_come_in_turn_in_the_same_order_from_each_position(put, opened):
    for part, count in enumerate((3, 5, 3, 2)):
        put(*range(count), partition=part)
    feed = opened(partition="all", follow=False)
    records = drained(feed, 3)
    in_turn = [f"r{part}-{row}" for row in range(2) for part in range(PARTS)]
    assert names(records) == [*in_turn, "r0-2", "r1-2", "r2-2"]  # and then it is the turn of one that has no more
    for i, record in enumerate(records):
        feed.seek(record.position)
        assert drained(feed) == records[i + 1 :]
    put(2, partition=3)
    put(3, partition=0)
    feed.seek(records[4].position)
    assert names(drained(feed)) == [*names(records[5:]), "r3-2", "r0-3", "r1-3"]


def test_a_partition_that_is_far_ahead_waits_for_the_others(put, opened):
    put(*range(3 * AHEAD), partition=1)
    put(0, partition=0)
    feed = opened(partition="all")
    assert names(feed.read(10, wait=10)) in (["r0-0"], ["r0-0", "r1-0"])
    feed.read(10, wait=0.5)
    assert len(feed._parts[1].waiting) < 2 * AHEAD
    for part in (2, 3, 0):
        put(*range(1, 6), partition=part)
    records = []
    while not records or records[-1].id != "r1-5":
        records += feed.read(100, wait=10)
    assert names(records)[-5:] == ["r1-4", "r2-5", "r3-5", "r0-5", "r1-5"]


def test_several_partitions_are_refused_unless_their_order_is_said(put, opened):
    put(1)
    with pytest.raises(ValueError, match=r"4 partitions, and Kafka keeps no order among them; give partition=0 .*all"):
        opened().read(1)
    with pytest.raises(ValueError, match="has no partition 7"):
        opened(partition=7).read(1)
    with pytest.raises(ValueError, match=r"no such topic \(did you mean"):
        opened("test_several_partitions_are_refused").read(1)


def test_only_what_was_acknowledged_is_committed(put, opened, broker, topic):
    from confluent_kafka import Consumer, TopicPartition

    put(*range(10))
    feed = opened(partition=0, group="readers", follow=False)
    records = feed.read(6)
    watcher = Consumer({"bootstrap.servers": broker, "group.id": "readers", "log_level": 0})

    def committed():
        return watcher.committed([TopicPartition(topic, 0)], timeout=10)[0].offset

    assert committed() < 0
    feed.acknowledge(records[3].position)
    tries = 1000
    while committed() != 4:
        tries -= 1
        assert tries
    again = opened(partition=0, group="readers", follow=False)
    again.seek(records[1].position)  # the checkpoint is older than the group
    assert names(drained(again)) == [f"r0-{i}" for i in range(2, 10)]
    watcher.close()


CLUSTER = """
import time
import confluent_kafka as library
producer = library.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "localhost:9", "log_level": 0})
(broker,) = producer.list_topics(timeout=20).brokers.values()
producer.produce("rows", '{"x": 1}', partition=0)
assert producer.flush(20) == 0
print(f"{broker.host}:{broker.port}", flush=True)
time.sleep(1000)
"""


def test_a_cluster_that_hangs_does_not_hold_a_reader_who_leaves():
    pytest.importorskip("confluent_kafka")
    cluster = subprocess.Popen([sys.executable, "-c", CLUSTER], stdout=subprocess.PIPE, text=True)
    try:
        feed = KafkaFeed(f"kafka://{cluster.stdout.readline().strip()}/rows", partition=0, group="readers")
        (record,) = feed.read(1, wait=20)
        cluster.send_signal(signal.SIGSTOP)
        feed.acknowledge(record.position)
        leaving = threading.Thread(target=feed.close, daemon=True)
        leaving.start()
        leaving.join(60)
        assert not leaving.is_alive()
    finally:
        cluster.kill()
        cluster.communicate()


def test_a_topic_that_lost_messages_is_noticed(put, opened):
    put(*range(5))
    feed = opened(partition=0)
    position = feed.read(5, wait=10)[-1].position
    with pytest.raises(LostError, match="offset 9 of partition 0 was read, but it ends at 4"):
        moved(feed, {**position, "offsets": [9]}).read(1)
    with pytest.raises(LostError, match="message at 2 of partition 0 is another"):
        moved(feed, {**position, "offsets": [2]}).read(1, wait=10)
    with pytest.raises(LostError, match="their order is another"):
        moved(feed, {**position, "partitions": [1]}).read(1)


def moved(feed, position):
    feed.seek(position)
    return feed


@pytest.mark.parametrize("position", [3, {}, {"partitions": [0], "offsets": [], "checks": [], "turn": 0}])
def test_what_is_no_position_is_refused(position, opened):
    with pytest.raises(ValueError, match="no position in a topic of Kafka"):
        opened().seek(position)


def test_no_error_and_no_name_holds_the_password(monkeypatch):
    monkeypatch.setattr(kafka_feed, "PATIENCE", 0.2)
    with pytest.raises(ValueError, match="takes a user as settings") as error:
        KafkaFeed("kafka://who:s3cret@127.0.0.1:1/rows")
    assert "s3cret" not in str(error.value)
    feed = KafkaFeed("kafka://127.0.0.1:1/rows", settings={"sasl.password": "s3cret"})
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1/rows: .*transport failure") as error:
        feed.read(1)
    assert "s3cret" not in str(error.value)
    feed = KafkaFeed("kafka://127.0.0.1:1/rows", settings={"sasl.password": "s3cret", "session.timeout.ms": "s3cret"})
    with pytest.raises(ValueError, match="session") as error:
        feed.read(1)
    assert "s3cret" not in str(error.value)
