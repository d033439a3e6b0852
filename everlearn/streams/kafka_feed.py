"""Kafka as a feed: the messages of one partition in the order of their offsets, or of all partitions in turn."""

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from everlearn.spec import nearest
from everlearn.streams.feed import Position, Record
from everlearn.streams.layout import Layout, from_json
from everlearn.streams.lost import LostError
from everlearn.streams.messages_feed import GLANCE, PATIENCE, Address, MessagesFeed

PORT = 9092
AHEAD = 1000
"""Messages of a partition that are kept while it is not their turn; then the partition waits."""
_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # what librdkafka says of its attempts; `trouble` has the last of it


class KafkaFeed(MessagesFeed):
    """A topic of Kafka, `kafka://HOST:PORT/TOPIC`: messages whose bodies are objects of JSON.

    Kafka keeps an order in each partition, and none among them: which message comes first depends on the network, and
    would be another after a restart. So a topic with several partitions needs `partition`: the number of one, or
    "all" for the first message of each, then the second of each, and so on. That order is the same each time, at a
    price: it waits for the slowest partition. `settings` are those of librdkafka, as "security.protocol".

    A position holds offsets, and a checksum of the last message of each partition. librdkafka itself connects anew, at
    its own random times; the offsets that it was told are only shown to people (`kafka-consumer-groups`).
    """

    def __init__(
        self,
        address: str,
        layout: Layout | None = None,
        *,
        group: str = "",
        follow: bool = True,
        seed: int = 0,
        partition: int | Literal["all"] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import confluent_kafka  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise ImportError("reading from Kafka needs confluent-kafka: pip install 'everlearn[kafka]'") from error
        super().__init__(Address(address, PORT), layout, group=group, follow=follow, seed=seed)
        if self.address.user is not None:
            raise ValueError(
                f"{self.name}: Kafka takes a user as settings: 'sasl.username', 'sasl.password', and others"
            )
        self.partition, self.settings = partition, dict(settings or {})
        self._kafka = confluent_kafka
        self._consumer: Any = None
        self._parts: list[_Part] = []
        self._turn = 0
        """Whose message is next: a place among the parts."""

    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._kafka.KafkaException,)

    def _connect(self) -> None:
        given = {
            "bootstrap.servers": f"{self.address.host}:{self.address.port}",
            "group.id": self.group or "everlearn",
            "fetch.wait.max.ms": 100,
            **self.settings,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "error_cb": self._notice,
        }
        try:
            self._consumer = self._kafka.Consumer(given, logger=_log)
        except self._kafka.KafkaException as error:
            raise ValueError(f"{self.name}: {self._discreet(self._said(error))}") from None
        numbers, at = self._numbers(), self._position
        if at is not None and at["partitions"] != numbers:
            raise LostError(
                f"{self.name} has the partitions {numbers}, and had {at['partitions']}: their order is another"
            )
        self._turn = at["turn"] if at else 0
        self._parts = [
            _Part(number, at["offsets"][i] if at else -1, at["checks"][i] if at else 0)
            for i, number in enumerate(numbers)
        ]
        self._consumer.assign([self._kafka.TopicPartition(*self._begin(part)) for part in self._parts])

    def _begin(self, part: "_Part") -> tuple[str, int, int]:
        """Where to read a partition from: at its last message, so that it can be compared."""
        topic, last = self.address.stream, part.offset
        low, high = self._consumer.get_watermark_offsets(
            self._kafka.TopicPartition(topic, part.number), timeout=PATIENCE
        )
        if last >= 0 and high < last + 1:
            raise LostError(
                f"{self.name}: offset {last} of partition {part.number} was read, but it ends at {high - 1}"
            )
        if last >= 0 and low > last + 1:
            raise LostError(
                f"{self.name}: offsets {last + 1} to {low - 1} of partition {part.number} are gone, and were not read"
            )
        return topic, part.number, max(low, last)

    def _numbers(self) -> list[int]:
        """Of the partitions that are read."""
        topic = self.address.stream
        topics = self._consumer.list_topics(timeout=PATIENCE).topics
        if topic not in topics:
            raise ValueError(f"{self.name}: there is no such topic{nearest(topic, topics)}")
        numbers = sorted(topics[topic].partitions)
        if self.partition is not None and self.partition != "all":
            if self.partition not in numbers:
                raise ValueError(f"{self.name} has no partition {self.partition}; there are {numbers}")
            return [self.partition]
        if len(numbers) > 1 and self.partition is None:
            raise ValueError(
                f"{self.name} has {len(numbers)} partitions, and Kafka keeps no order among them; give partition=0 for "
                'one of them, or partition="all" for their messages in turn, at the pace of the slowest; as in '
                f"{self.name}?partition=all"
            )
        return numbers

    def _disconnect(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            closing = threading.Thread(target=consumer.close, name="kafka", daemon=True)
            closing.start()  # it waits for what the broker was told last: without a broker, for very long
            closing.join(PATIENCE)

    def _fetch(self, most: int, wait: float) -> list[Record]:
        until = time.monotonic() + (wait if self.follow else PATIENCE)
        while True:
            records = self._in_turn(most)
            left = until - time.monotonic()
            if records or left <= 0 or (not self.follow and self._parts[self._turn].ended):
                return records
            for message in self._consumer.consume(most, timeout=min(left, GLANCE) if self.follow else GLANCE):
                self._take(message)
            self._hold()

    def _take(self, message: Any) -> None:
        """Puts a message that came to those of its partition."""
        error, part = message.error(), next(part for part in self._parts if part.number == message.partition())
        if error is None:
            body = message.value() or b""
            if message.offset() <= part.offset:
                if message.offset() == part.offset and zlib.crc32(body) != part.check:
                    raise LostError(
                        f"{self.name}: the message at {part.offset} of partition {part.number} is another than it was "
                        "when it was read"
                    )
                return
            part.ended = False
            part.waiting.append((message.offset(), body))
            self.trouble = ""
        elif error.code() == self._kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 (its public name)
            part.ended = True
        elif error.code() in (self._kafka.KafkaError._AUTO_OFFSET_RESET, self._kafka.KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
            raise LostError(f"{self.name}: what comes next in partition {part.number} is gone: {error.str()}")
        else:
            raise self._kafka.KafkaException(error)

    def _in_turn(self, most: int) -> list[Record]:
        """The next records, as far as the partition whose turn it is has one."""
        records: list[Record] = []
        while len(records) < most and self._parts[self._turn].waiting:
            part = self._parts[self._turn]
            part.offset, body = part.waiting.popleft()
            part.check = zlib.crc32(body)
            self._turn = (self._turn + 1) % len(self._parts)
            position = {
                "partitions": [each.number for each in self._parts],
                "offsets": [each.offset for each in self._parts],
                "checks": [each.check for each in self._parts],
                "turn": self._turn,
            }
            place = f"{self.name}, partition {part.number}, offset {part.offset}"
            default = f"{self.address.stream}:{part.number}:{part.offset}"
            records.append(from_json(body, self.layout, position, place, default))
        return records

    def _hold(self) -> None:
        """Partitions that are far ahead of the slowest wait for it."""
        for part in self._parts:
            if part.held != (len(part.waiting) > AHEAD):
                part.held = not part.held
                where = [self._kafka.TopicPartition(self.address.stream, part.number)]
                (self._consumer.pause if part.held else self._consumer.resume)(where)

    def _tell(self, position: Position) -> None:
        offsets = zip(position["partitions"], position["offsets"], strict=True)
        topic = self.address.stream
        read = [self._kafka.TopicPartition(topic, part, last + 1) for part, last in offsets if last >= 0]
        self._consumer.commit(offsets=read, asynchronous=True)

    def _check(self, position: Position) -> None:
        try:
            if position is not None:
                several = zip(position["partitions"], position["offsets"], position["checks"], strict=True)
                _ = list(several)[int(position["turn"])]
        except (TypeError, KeyError, ValueError, IndexError):
            raise ValueError(f"{self.name}: {position!r} is no position in a topic of Kafka") from None

    def _notice(self, error: Any) -> None:
        self.trouble = self._discreet(error.str())

    def _said(self, error: Exception) -> str:
        return str(error.args[0].str())

    def _discreet(self, text: str) -> str:
        for name, value in self.settings.items():
            if "password" in name or "secret" in name:
                text = text.replace(str(value), "***")
        return super()._discreet(text)


@dataclass
class _Part:
    """A partition: the last message that was given, and those that came after it."""

    number: int
    offset: int
    check: int
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)
    ended: bool = False
    held: bool = False
