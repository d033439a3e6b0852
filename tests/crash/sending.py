"""Messages of which one in ten comes twice, all a bit out of order; and how they get into a file or onto a server."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import nats_server, redis_server

ROWS = 240


def messages(seed: int = 0) -> list[dict[str, object]]:
    """Rows of three classes and their labels, later; one in ten comes twice, and all are a bit out of order."""
    chance = random.Random(seed)
    sent = []
    for number in range(ROWS):
        label = chance.choice("abc")
        centre = "abc".index(label) - 1 + 0.5 * (number > ROWS // 2)
        row = {"x": chance.gauss(centre, 0.4), "z": chance.gauss(-centre, 0.4), "day": chance.choice(("mon", "tue"))}
        named = {"id": f"r{number}", "time": 1e9 + number}
        for message, late in ((named | row, 0.0), (named | {"label": label}, chance.uniform(0, 25))):
            times = 1 + (chance.random() < 0.1)
            sent += [(number + late + chance.uniform(0, 4), message) for _ in range(times)]
    return [message for _, message in sorted(sent, key=lambda pair: pair[0])]


def bodies() -> list[str]:
    return [json.dumps(message) for message in messages()]


@contextmanager
def file(folder: Path) -> Iterator[str]:
    path = folder / "stream.jsonl"
    path.write_text("".join(f"{body}\n" for body in bodies()))
    yield str(path)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    library = pytest.importorskip("redis")
    server = redis_server(folder)
    with library.Redis(port=server.port) as client:
        for body in bodies():
            client.xadd("rows", {"body": body})
    yield f"redis://127.0.0.1:{server.port}/rows?group=readers"
    server.kill()


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    library = pytest.importorskip("nats")
    server = nats_server(folder)

    async def fill() -> None:
        client = await library.connect(f"nats://127.0.0.1:{server.port}")
        stream = client.jetstream()
        await stream.add_stream(name="ROWS", subjects=["rows"])
        for body in bodies():
            await stream.publish("rows", body.encode())
        await client.close()

    asyncio.run(fill())
    yield f"nats://127.0.0.1:{server.port}/ROWS?group=readers"
    server.kill()


@contextmanager
def kafka(folder: Path) -> Iterator[str]:
    """The cluster that librdkafka brings along lives in the producer, so in a process that nobody kills."""
    library = pytest.importorskip("confluent_kafka")
    producer = library.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "localhost:9", "log_level": 0})
    (broker,) = producer.list_topics(timeout=20).brokers.values()
    for place, body in enumerate(bodies()):
        producer.produce("rows", body, partition=place % 4)  # as many as a topic has there
    assert producer.flush(20) == 0
    yield f"kafka://{broker.host}:{broker.port}/rows?partition=all&group=readers"


SOURCES = {"file": file, "redis": redis, "nats": nats, "kafka": kafka}
