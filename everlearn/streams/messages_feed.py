"""What feeds from a server have in common: messages, and a connection that comes back."""

import time
from abc import ABC, abstractmethod
from urllib.parse import SplitResult, unquote, urlsplit

from everlearn.randomness import mix
from everlearn.streams.feed import Position, Record
from everlearn.streams.layout import Layout

FIRST, CAP = 0.05, 30.0
"""Seconds before the first new attempt to connect, and at most before any."""
PATIENCE = 3.0
"""Seconds that a server may take to answer; whoever is asked to stop meanwhile stops after them."""
GLANCE = 0.05
"""Seconds that an answer of a server may take when nobody wants to wait for more."""


class Backoff:
    """How long to wait before the next attempt: twice as long each time up to a cap, less a random part of up to half.

    >>> backoff = Backoff(seed=0)
    >>> waits = [backoff.next() for _ in range(20)]
    >>> 0.025 <= waits[0] <= 0.05 and 15 <= waits[-1] <= 30
    True
    """

    def __init__(self, seed: int = 0, first: float = FIRST, cap: float = CAP) -> None:
        self.seed, self.first, self.cap = seed, first, cap
        self.attempts, self._drawn = 0, 0

    def next(self) -> float:
        """Seconds to wait."""
        whole = min(self.cap, self.first * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        self._drawn += 1
        return whole * (1 - mix(self.seed, self._drawn) / 2**64)

    def reset(self) -> None:
        """After a success, the next wait is short again."""
        self.attempts = 0


class Address:
    """The parts of SCHEME://USER:PASSWORD@HOST:PORT/STREAM; `name` is all but the user and the password."""

    def __init__(self, text: str, port: int) -> None:
        parts = urlsplit(text)
        self.scheme, self.host = parts.scheme, parts.hostname or "localhost"
        self.port = _port(parts) or port
        self.stream = unquote(parts.path.strip("/"))
        self.user = None if parts.username is None else unquote(parts.username)
        self.password = None if parts.password is None else unquote(parts.password)
        self.name = f"{self.scheme}://{self.host}:{self.port}/{self.stream}"
        if not self.stream or "/" in self.stream or parts.query or parts.fragment:
            raise ValueError(f"{self.name} is no address of a stream; expected {self.scheme}://HOST:PORT/STREAM")


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise ValueError(f"the port in {parts.scheme}://{parts.hostname}:... is no number below 65536") from None


class MessagesFeed(ABC):
    """A stream that a server keeps. It is read by position, and the position is the reader's own.

    The server is asked for what comes after the last record; who reads, and how far, it need not know. So after a
    kill the reader goes on from the position in its checkpoint, in the same order, with no row lost or learned twice,
    whatever the server believes was delivered. `group` is a name under which the server is told how far the reader is,
    after each checkpoint, for people who watch how far it is behind: nothing is read by it.

    A connection that is lost is made again, after waits that double up to half a minute and differ by `seed`; until
    then there is nothing to read, and `trouble` says why. If the first connection cannot be made within the `wait` of
    a `read`, that is a ConnectionError. What a reader would miss (cleared before it was read, or lost by the
    server) is a LostError, as far as the server can show it.

    With `follow=False` the feed ends where nothing more is there.
    """

    def __init__(self, address: Address, layout: Layout | None, *, group: str, follow: bool, seed: int) -> None:
        self.address, self.layout, self.group, self.follow = address, layout or Layout(), group, follow
        self.trouble = ""
        """Why nothing comes at present; "" if all is well."""
        self._backoff = Backoff(seed)
        self._after = 0.0
        """When the next attempt to connect may be made, on the clock of `time.monotonic`."""
        self._connected = self._met = self._caught_up = False
        self._position: Position = None
        self._told: Position = None
        """What the server is to be told, and was not."""

    @property
    def name(self) -> str:
        """The address without user and password."""
        return self.address.name

    @property
    def ended(self) -> bool:
        """Whether all that is there was read, and no more is waited for."""
        return self._caught_up and not self.follow

    def read(self, most: int, wait: float = 0.0) -> list[Record]:
        """The next records."""
        until = time.monotonic() + wait
        while True:
            if self._ready(until):
                try:
                    left = max(0.0, until - time.monotonic())
                    records = self._fetch(most, left if self.follow else 0.0)
                except self._failures() as error:
                    self._broken(error)
                except ValueError:
                    self._drop()
                    raise
                else:
                    if records:
                        self._position = records[-1].position
                        return records
                    self._caught_up = True
            if self.ended or time.monotonic() >= until:
                return []

    def seek(self, position: Position) -> None:
        """Goes on behind a record. What stands there is compared with what was read at the next `read`."""
        self._check(position)
        self._drop()
        self._caught_up = False
        self._position, self._told, self._after = position, None, 0.0

    def acknowledge(self, position: Position) -> None:
        """Tells the server how far the reader is, if there is a `group`: now, or when the server is there again."""
        if not self.group or position is None:
            return
        self._told = position
        if self._connected:
            try:
                self._tell(position)
                self._told = None
            except self._failures() as error:
                self._broken(error)

    def close(self) -> None:
        """Ends the connection."""
        self._drop()

    def _ready(self, until: float) -> bool:
        """Whether there is a connection, or could be made in time."""
        while not self._connected:
            now = time.monotonic()
            if self._after > now:
                if self._after >= until:
                    time.sleep(max(0.0, until - now))
                    self._give_up()
                    return False
                time.sleep(self._after - now)
            try:
                self._connect()
                self._connected = True
                if self._told is not None:
                    self._tell(self._told)
                    self._told = None
            except self._failures() as error:
                self._broken(error)
                if time.monotonic() >= until:
                    self._give_up()
                    return False
            except ValueError:
                self._drop()
                raise
            else:
                self._met, self.trouble = True, ""
                self._backoff.reset()
        return True

    def _give_up(self) -> None:
        if not self._met:
            raise ConnectionError(f"{self.name}: {self.trouble}")

    def _drop(self) -> None:
        self._connected = False
        self._disconnect()

    def _broken(self, error: Exception) -> None:
        self._drop()
        self.trouble = f"{type(error).__name__}: {self._discreet(self._said(error))}"
        self._after = time.monotonic() + self._backoff.next()

    def _said(self, error: Exception) -> str:
        return str(error)

    def _discreet(self, text: str) -> str:
        """A text of a library without the password, should it be in there."""
        return text.replace(self.address.password, "***") if self.address.password else text

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """What is raised while the server is not there."""

    @abstractmethod
    def _connect(self) -> None:
        """Connects, compares what stands at the position, and gets ready for what comes behind it."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Lets go of the connection, in whatever state it is; may be called twice."""

    @abstractmethod
    def _fetch(self, most: int, wait: float) -> list[Record]:
        """What comes behind the position; [] if nothing does within `wait` seconds."""

    @abstractmethod
    def _tell(self, position: Position) -> None:
        """Tells the server, under the name of the group."""

    @abstractmethod
    def _check(self, position: Position) -> None:
        """A ValueError if it is no position here."""
