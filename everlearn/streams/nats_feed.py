"""NATS JetStream as a feed: the messages of a stream in the order of their sequence numbers, from any of them on."""

import asyncio
import threading
import zlib
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from everlearn.spec import nearest
from everlearn.streams.feed import Position, Record
from everlearn.streams.layout import Layout, from_json
from everlearn.streams.lost import LostError
from everlearn.streams.messages_feed import GLANCE, PATIENCE, Address, MessagesFeed

PORT = 4222
FORGOTTEN = 300.0
"""Seconds after which the server forgets a reader that asks for nothing."""
WAITS = 3600.0
"""Seconds that the server waits for a group to say how far it is, before it would send messages again."""

T = TypeVar("T")


class NatsFeed(MessagesFeed):
    """A stream of JetStream, `nats://HOST:PORT/STREAM` (`tls://`): messages whose bodies are objects of JSON.

    A position is a sequence number and a checksum of the message: JetStream may lose what it acknowledged when the
    power fails, and gives its numbers to other messages then, which would otherwise never be read.

    Each connection has a consumer of its own from the position on, without acknowledgement; with a `group`, a durable
    one of this name, made anew at the position. A work queue cannot be read: it forgets what was acknowledged.
    """

    def __init__(
        self, address: str, layout: Layout | None = None, *, group: str = "", follow: bool = True, seed: int = 0
    ) -> None:
        try:
            import nats  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise ImportError("reading from NATS needs nats-py: pip install 'everlearn[nats]'") from error
        super().__init__(Address(address, PORT), layout, group=group, follow=follow, seed=seed)
        self._nats = nats
        self._loop = _Loop()
        self._connection: Any = None
        self._stream: Any = None
        """What JetStream can be asked for."""
        self._messages: Any = None
        self._consumer = ""
        """The name of our own, if it is of no group."""
        self._delivered = 0
        """Messages from this consumer: their own numbers have no gap unless one was lost on the way."""
        self._replies: deque[tuple[int, Any]] = deque()
        """What was read, and not acknowledged to the group."""

    def close(self) -> None:
        """Ends the connection, and the thread that keeps it."""
        super().close()
        self._loop.close()

    def _failures(self) -> tuple[type[Exception], ...]:
        return (self._nats.errors.Error, OSError, TimeoutError, CancelledError)

    def _connect(self) -> None:
        self._loop.run(self._connected_to())

    def _disconnect(self) -> None:
        self._replies.clear()
        stream, self._messages, self._stream = self._stream, None, None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(*self._failures()):
                self._loop.run(self._left(connection, stream))

    def _fetch(self, most: int, wait: float) -> list[Record]:
        messages = self._loop.run(self._fetched(most, max(wait, GLANCE)), wait)
        records: list[Record] = []
        last = self._position["seq"] if self._position else messages[0].metadata.sequence.stream - 1 if messages else 0
        first: int | None = None
        for message in messages:
            about = message.metadata.sequence
            self._delivered += 1
            if about.consumer != self._delivered:
                raise self._nats.errors.Error(f"message {self._delivered} was lost on its way")
            if about.stream != last + 1:  # some were deleted: one by one, or all up to here?
                first = first or self._loop.run(self._about()).first_seq
                if first > last + 1:
                    self._drop()
                    if records:  # the next connection begins behind these, and sees it again
                        return records
                    self._refuse(last, first)
            last = about.stream
            records.append(self._record(last, message.data))
            if self.group:
                self._replies.append((last, message))
        return records

    def _record(self, number: int, body: bytes) -> Record:
        position = {"seq": number, "check": zlib.crc32(body)}
        place, default = f"{self.name}, message {number}", f"{self.address.stream}:{number}"
        return from_json(body, self.layout, position, place, default)

    def _tell(self, position: Position) -> None:
        message = None
        while self._replies and self._replies[0][0] <= position["seq"]:
            message = self._replies.popleft()[1]
        if message is not None:
            self._loop.run(message.ack())

    def _check(self, position: Position) -> None:
        try:
            _ = position is None or (int(position["seq"]), int(position["check"]))
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{self.name}: {position!r} is no position in a stream of NATS") from None

    async def _left(self, connection: Any, stream: Any) -> None:
        """Takes leave: a consumer without a group is of no use to anybody else."""
        try:
            if stream is not None and self._consumer and connection.is_connected:
                await stream.delete_consumer(self.address.stream, self._consumer)
        finally:
            await connection.close()

    async def _connected_to(self) -> None:
        from nats.js import api, errors  # noqa: PLC0415 - an optional dependency

        address = self.address
        given = {"user": address.user, "password": address.password}
        if address.user is not None and address.password is None:
            given = {"token": address.user}
        seen: list[Exception] = []

        async def notice(error: Exception) -> None:
            seen.append(error)

        try:
            self._connection = self._nats.NATS()
            await self._connection.connect(
                f"{address.scheme}://{address.host}:{address.port}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=PATIENCE,
                ping_interval=PATIENCE,
                error_cb=notice,
                **{name: value for name, value in given.items() if value is not None},
            )
        except self._nats.errors.NoServersError as error:
            raise seen[-1] if seen else error from None
        except self._nats.errors.Error as error:
            if "authorization" not in str(error).lower():
                raise
            raise ValueError(f"{self.name}: {self._discreet(str(error))}") from None
        self._stream = stream = self._connection.jetstream(timeout=PATIENCE)
        try:
            kept = (await stream.stream_info(address.stream)).config.retention
        except errors.NotFoundError:
            names = [each.config.name for each in await stream.streams_info()]
            raise ValueError(f"{self.name}: there is no such stream{nearest(address.stream, names)}") from None
        if kept == api.RetentionPolicy.WORK_QUEUE:
            raise ValueError(
                f"{self.name} is a work queue, which cannot be read from a position; use limits or interest"
            )
        last = await self._compared()
        if self.group:
            with suppress(errors.NotFoundError):  # the first time, there is none
                await stream.delete_consumer(address.stream, self.group)
        consumer = await stream.add_consumer(
            address.stream,
            api.ConsumerConfig(
                durable_name=self.group or None,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=last + 1,
                ack_policy=api.AckPolicy.ALL if self.group else api.AckPolicy.NONE,
                ack_wait=WAITS if self.group else None,
                max_ack_pending=-1 if self.group else None,
                inactive_threshold=None if self.group else FORGOTTEN,
            ),
        )
        self._consumer = "" if self.group else consumer.name
        self._messages = await stream.pull_subscribe_bind(consumer.name, stream=address.stream)
        self._delivered = 0

    async def _compared(self) -> int:
        """The number of the last message that was read, which is still what it was."""
        from nats.js import errors  # noqa: PLC0415 - an optional dependency

        if self._position is None:
            return 0
        last: int = self._position["seq"]
        state = await self._about()
        if state.first_seq > last + 1:
            self._refuse(last, state.first_seq)
        if state.last_seq < last:
            raise LostError(
                f"{self.name}: message {last} was read, but the server has only {state.last_seq}; it lost some"
            )
        try:
            found = await self._stream.get_msg(self.address.stream, last)
        except errors.NotFoundError:
            return last  # deleted, as may be with what was read
        if zlib.crc32(found.data or b"") != self._position["check"]:
            raise LostError(f"{self.name}: message {last} is another than it was when it was read")
        return last

    async def _about(self) -> Any:
        return (await self._stream.stream_info(self.address.stream)).state

    def _refuse(self, last: int, first: int) -> NoReturn:
        raise LostError(f"{self.name}: the messages {last + 1} to {first - 1} were deleted before they were read")

    async def _fetched(self, most: int, wait: float) -> list[Any]:
        try:
            return list(await self._messages.fetch(most, timeout=wait))
        except TimeoutError:
            if not self._connection.is_connected:
                raise
            return []


class _Loop:
    """A thread in which coroutines run, while others wait for their results."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)

    def run(self, coroutine: Coroutine[Any, Any, T], wait: float = 0.0) -> T:
        """The result; a TimeoutError if it takes much longer than `wait`, as with a connection that is half dead."""
        if not self._thread.is_alive():
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(wait + 3 * PATIENCE)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
