"""Redis Streams as a feed: entries in the order of their ids, from any of them on."""

import zlib
from collections.abc import Mapping
from itertools import chain
from typing import Any

from everlearn.streams.feed import Position, Record
from everlearn.streams.layout import Layout, from_json, problem
from everlearn.streams.lost import LostError
from everlearn.streams.messages_feed import PATIENCE, Address, MessagesFeed

PORT = 6379
BODY = b"body"
"""The field of an entry that holds a row in JSON; other entries are rows of texts themselves."""


class RedisFeed(MessagesFeed):
    """A stream of Redis, `redis://HOST:PORT/STREAM` (`rediss://` with TLS), in the database `database`.

    An entry is a row: either its field "body" is an object of JSON, or its fields are the row's own, as texts. A
    position is the id of an entry, a checksum of it, and how many entries had come by then. From Redis 7 on the server
    counts, too, so that entries which were trimmed before they were read are noticed.

    Why no consumer group reads: what a group has delivered and not acknowledged would come again beside what is new,
    in another order, and what was acknowledged would never come again, though the checkpoint may be older.
    """

    def __init__(
        self,
        address: str,
        layout: Layout | None = None,
        *,
        group: str = "",
        follow: bool = True,
        seed: int = 0,
        database: int = 0,
    ) -> None:
        try:
            import redis  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise ImportError("reading from Redis needs redis: pip install 'everlearn[redis]'") from error
        super().__init__(Address(address, PORT), layout, group=group, follow=follow, seed=seed)
        self.database = database
        self._redis = redis
        self._server: Any = None
        self._counts = False
        """Whether the server counts what it was given."""

    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._redis.ConnectionError, self._redis.TimeoutError)

    def _connect(self) -> None:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an optional dependency
        from redis.retry import Retry  # noqa: PLC0415

        self._server = self._redis.Redis(
            host=self.address.host,
            port=self.address.port,
            username=self.address.user or None,
            password=self.address.password,
            db=self.database,
            ssl=self.address.scheme == "rediss",
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        try:
            self._server.ping()
        except (self._redis.AuthenticationError, self._redis.ResponseError) as error:
            raise ValueError(f"{self.name}: {self._discreet(str(error))}") from None

    def _disconnect(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _fetch(self, most: int, wait: float) -> list[Record]:
        entries, count = self._behind(most)
        if not entries and wait > 0:
            last, patience = self._position["id"] if self._position else "0-0", min(wait, PATIENCE / 2)
            if self._server.xread({self.address.stream: last}, count=1, block=max(1, int(patience * 1000))):
                entries, count = self._behind(most)
        return [self._record(name, fields, count + i) for i, (name, fields) in enumerate(entries, start=1)]

    def _behind(self, most: int) -> tuple[list[tuple[bytes, Mapping[bytes, bytes]]], int]:
        """The next entries, and how many came before them; read at one moment, so that none can slip through."""
        stream, at = self.address.stream, self._position
        pipe = self._server.pipeline(transaction=True)
        pipe.xinfo_stream(stream)
        pipe.xrange(stream, *((at["id"], at["id"]) if at else ("0-0", "0-0")))
        pipe.xrange(stream, f"({at['id']}" if at else "-", "+", count=most)
        about, last, entries = pipe.execute(raise_on_error=False)
        if isinstance(about, self._redis.ResponseError) and "no such key" in str(about):
            about = {"length": 0, "entries-added": 0}
        for answer in (about, last, entries):
            if isinstance(answer, Exception):
                raise answer if isinstance(answer, self._failures()) else ValueError(f"{self.name}: {answer}")
        if last and _checksum(last[0][1]) != at["check"]:
            raise LostError(f"{self.name}: the entry {at['id']} is another than it was when it was read")
        self._counts = "entries-added" in about
        if not self._counts:
            return entries, at["count"] if at else 0
        added, gone = about["entries-added"], about["entries-added"] - about["length"]
        if at is None:
            before = gone
        elif added < at["count"]:
            raise LostError(
                f"{self.name}: {at['count']} entries had come when the last was read, and {added} now: the server lost "
                "some, or the stream was made anew"
            )
        elif gone > at["count"]:
            raise LostError(
                f"{self.name}: {gone - at['count']} entries behind {at['id']} were deleted before they were read"
            )
        else:
            before = at["count"]
        return entries, added - len(entries) if len(entries) < most else before

    def _record(self, name: bytes, fields: Mapping[bytes, bytes], count: int) -> Record:
        entry = name.decode()
        position = {"id": entry, "count": count, "check": _checksum(fields)}
        place, default = f"{self.name}, entry {entry}", f"{self.address.stream}:{entry}"
        if BODY in fields:
            return from_json(fields[BODY], self.layout, position, place, default)
        try:
            row = {key.decode(): value.decode() for key, value in fields.items()}
            return self.layout.record(row, position, default, typed=False)
        except ValueError as error:
            return problem(error, position, place, default)

    def _tell(self, position: Position) -> None:
        stream, read = self.address.stream, position["count"] if self._counts else None
        try:
            self._server.xgroup_setid(stream, self.group, position["id"], entries_read=read)
        except self._redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise ValueError(f"{self.name}: {error}") from None
            self._server.xgroup_create(stream, self.group, position["id"], entries_read=read)

    def _check(self, position: Position) -> None:
        try:
            _ = position is None or (str(position["id"]), int(position["count"]), int(position["check"]))
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{self.name}: {position!r} is no position in a stream of Redis") from None


def _checksum(fields: Mapping[bytes, bytes]) -> int:
    return zlib.crc32(b"\0".join(chain.from_iterable(fields.items())))
