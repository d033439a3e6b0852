"""Learning in a thread behind the predictions, which never wait for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Lock, Thread
from typing import Any

from everlearn.online.engine import Online, Prediction
from everlearn.online.learning import Learning, Lesson
from everlearn.randomness import mix
from everlearn.streams.feed import Record

Save = Callable[[dict[str, Any], Sequence[Lesson]], None]
"""Writes a checkpoint: of the state of learning, and of the lessons that wait."""


class Behind:
    """Takes lessons, at most `room` of them at a time, and learns them in its own thread, `batch_size` in each step.

    When there is no room for `live` rows, one of those that wait and the new one is shed, each being as likely to go as
    any other: so what is learned stays a sample of all that came. `shed` counts them. Nobody waits for the answers to
    other rows, as to those of a finished file: for these, `put` waits for room. Predictions are made by one of two
    `replicas`, which get the new state in turn, each `publish` steps: none sees half of it, and none waits for it.
    """

    def __init__(
        self,
        learning: Learning,
        replicas: tuple[Online, Online],
        *,
        room: int,
        live: bool = True,
        batch_size: int = 1,
        publish: int = 50,
        seed: int = 0,
    ) -> None:
        self.learning, self.room, self.live = learning, room, live
        self.batch_size, self.every, self.seed = batch_size, publish, seed
        self.waiting: list[Lesson] = []
        self.shed = 0
        self._served, self._next = ((replica, Lock()) for replica in replicas)
        self._news = Condition()
        self._request: tuple[Save, list[Lesson]] | None = None
        self._ending = self._busy = False
        self._failure: Exception | None = None
        self._since = 0

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """By the state that was published last."""
        while True:
            replica, lock = self._served
            if lock.acquire(blocking=False):  # else it was replaced in this moment, and is being written
                try:
                    return replica.predict(records)
                finally:
                    lock.release()

    def put(self, lesson: Lesson) -> None:
        """To be learned when it is its turn."""
        with self._news:
            if not self.live:
                self._news.wait_for(lambda: len(self.waiting) < self.room or self._failure is not None)
            self._raise()
            if len(self.waiting) >= self.room:
                self.shed += 1
                victim = mix(self.seed, self.shed) % (len(self.waiting) + 1)
                if victim == len(self.waiting):
                    return
                del self.waiting[victim]
            self.waiting.append(lesson)
            self._news.notify_all()

    def save(self, write: Save, *, wait: bool = False) -> None:
        """Calls `write` after the step that is being taken, in the thread that learns.

        What it is given belongs to this moment: the lessons that wait now, and a state that has learned all before
        them. So whatever the caller saves with it must be of this moment, too. Without `wait`, nothing happens while an
        earlier call is still being answered (`saving`).
        """
        with self._news:
            if wait:
                self._news.wait_for(lambda: self._request is None or self._failure is not None)
            self._raise()
            if self._request is not None:
                return
            self._request = write, list(self.waiting)
            self._news.notify_all()
            if wait:
                self._news.wait_for(lambda: self._request is None or self._failure is not None)
                self._raise()

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._request is not None

    def drain(self) -> None:
        """Waits until all is learned, and then published."""
        with self._news:
            self._ending = True
            self._news.notify_all()
            self._news.wait_for(lambda: (not self.waiting and not self._busy) or self._failure is not None)
            self._raise()
            self._ending = False
        self._publish()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While its thread works. When it is left, what waits is not learned any more."""
        self._publish()
        stopping = [False]
        thread = Thread(target=self._work, args=(stopping,), name="everlearn-learning", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._news:
                stopping[0] = True
                self._news.notify_all()
            thread.join()

    # -- inside -----------------------------------------------------------------------------------------------

    def _work(self, stopping: list[bool]) -> None:
        try:
            while True:
                with self._news:
                    self._busy = False
                    self._news.notify_all()
                    self._news.wait_for(lambda: stopping[0] or self._request or self._enough())
                    request, batch = self._request, []
                    if stopping[0] and not request:
                        return
                    if not request:
                        batch, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
                        self._busy = True
                if request:
                    write, waiting = request
                    write(self.learning.state_dict(), waiting)
                    with self._news:
                        self._request = None
                else:
                    self.learning(batch)
                    self._since += 1
                    if self._since >= self.every:
                        self._publish()
        except Exception as error:  # noqa: BLE001 (it is raised again where somebody hears it)
            with self._news:
                self._failure, self._busy = error, False
                self._news.notify_all()

    def _enough(self) -> bool:
        return len(self.waiting) >= self.batch_size or (self._ending and bool(self.waiting))

    def _publish(self) -> None:
        """Writes the state into the replica that nobody asks, which is then the one that is asked."""
        replica, lock = self._next
        with lock:
            replica.load_state_dict(self.learning.online.state_dict())
        self._served, self._next = self._next, self._served
        self._since = 0

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
