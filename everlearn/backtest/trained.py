"""Policies that train a model: never again, from scratch, on what is new, or with each label."""

from bisect import insort
from collections.abc import Sequence
from typing import Any, ClassVar

from everlearn.backtest.alarm import Alarm, Wrong
from everlearn.backtest.policy import Policy, Schedule
from everlearn.backtest.setup import Setup
from everlearn.backtest.trainee import Passed, Trainee
from everlearn.online.detectors import DEFAULT
from everlearn.online.drift import Drift
from everlearn.online.engine import Online as Engine
from everlearn.online.span import Span
from everlearn.streams.feed import Label


class Trained(Policy):
    """Has a model that the warm-up trained, and labels that wait to be learned."""

    borders: ClassVar[bool] = True
    """Whether all learning is of whole experiences."""

    def __init__(self, text: str, setup: Setup, *, method: str = "naive", model: str = "", epochs: int = 0) -> None:
        super().__init__(text, setup.archive)
        self.setup, self.method, self.model, self.epochs = setup, method, model, epochs or setup.epochs
        self.trainee = self.fresh()
        self.waiting: list[int] = []

    def fresh(self, passed: Passed | None = None) -> Trainee:
        """A model that has learned nothing yet; the same one each time."""
        return Trainee(self.setup, self.method, self.model, borders=self.borders, passed=passed)

    def warm_up(self, rows: Sequence[int]) -> None:
        """Learns what is known, in several passes."""
        self.trainee.fit(rows, self.setup.epochs)
        self.trainee.passed.taken()
        self.effort.newest = max(rows)
        self.effort.keep(self.trainee.remembered)

    def arrive(self, rows: Sequence[int]) -> None:
        """They wait, and are kept until then."""
        self.waiting += rows
        self.effort.keep(self.held + self.trainee.remembered)

    @property
    def held(self) -> int:
        """How many rows are kept to be learned."""
        return len(self.waiting)

    def learn(self, rows: Sequence[int]) -> None:
        """Learns rows in several passes, and notes what that took."""
        self.trainee.fit(rows, self.epochs)
        self.effort.learn(rows, self.trainee.passed.taken())
        self.effort.keep(len(rows) + self.trainee.remembered)

    def answer(self, rows: Sequence[int]) -> list[Label]:
        """What the model says."""
        return self.trainee.answer(rows)

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"trainee": self.trainee.state_dict(), "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.trainee.load_state_dict(state["trainee"])
        self.waiting = list(state["waiting"])


class Never(Trained):
    """Trained once, on the warm-up."""

    def arrive(self, rows: Sequence[int]) -> None:
        """Nobody looks."""

    def due(self, now: int) -> bool:  # noqa: ARG002 (a policy is told where it is)
        """Never."""
        return False

    def update(self, now: int) -> None:
        """Never."""


class Scheduled(Trained):
    """Learns when its schedule says so, if labels have come."""

    def __init__(self, text: str, setup: Setup, schedule: Schedule | Alarm, **given: Any) -> None:
        super().__init__(text, setup, **given)
        self.schedule = schedule
        self.looks = isinstance(schedule, Alarm)

    def arrive(self, rows: Sequence[int]) -> None:
        """They wait, and the schedule is told."""
        super().arrive(rows)
        self.schedule.hear(rows)

    def due(self, now: int) -> bool:
        """Whether the time has come."""
        return self.schedule.due(now)

    def update(self, now: int) -> None:
        """Learns, if there is something new."""
        self.schedule.done(now)
        if self.waiting:
            rows, self.waiting = self.waiting, []
            self.turn(rows, now)

    def turn(self, rows: Sequence[int], now: int) -> None:
        """Learns, now that the labels of `rows` have come."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])


class FineTune(Scheduled):
    """Goes on with what is new, each row in one update; `method` holds on to the old."""

    def turn(self, rows: Sequence[int], now: int) -> None:  # noqa: ARG002
        """Learns these rows."""
        self.learn(sorted(rows))


class Retrain(Scheduled):
    """Trains from scratch, or with `warm` from where the model is, on all that is known or on a window of it."""

    def __init__(
        self,
        text: str,
        setup: Setup,
        schedule: Schedule | Alarm,
        *,
        window: Span | None = None,
        warm: bool = False,
        **given: Any,
    ) -> None:
        super().__init__(text, setup, schedule, **given)
        self.window, self.warm = window, warm
        self.pool: list[int] = []

    def warm_up(self, rows: Sequence[int]) -> None:
        """Learns what is known, and keeps it."""
        super().warm_up(rows)
        self.pool = list(rows)
        self._forget()
        self.effort.keep(self.held + self.trainee.remembered)

    def arrive(self, rows: Sequence[int]) -> None:
        """They are kept beside all that came before."""
        for row in rows:
            insort(self.pool, row)
        self._forget()
        super().arrive(rows)

    @property
    def held(self) -> int:
        """What is waiting is part of it."""
        return len(self.pool)

    def turn(self, rows: Sequence[int], now: int) -> None:  # noqa: ARG002 (they are in the pool already)
        """Learns all that is kept."""
        self._forget()
        if self.pool:
            if not self.warm:
                self.trainee = self.fresh()
            self.learn(self.pool)

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {"pool": list(self.pool)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.pool = list(state["pool"])

    def _forget(self) -> None:
        """Lets go of what is out of the window, and so would never be learned again."""
        if self.window is None:
            return
        since = self.archive.clock(self.archive.now) - self.window.amount
        out = 0
        while out < len(self.pool) and (
            self.archive.clock(self.pool[out]) < since
            if self.window.timed
            else len(self.pool) - out > self.window.amount
        ):
            out += 1
        del self.pool[:out]


class Online(Trained):
    """Learns each label as it comes, or `batch` of them at a time, in one step of the optimizer each."""

    borders = False

    def __init__(self, text: str, setup: Setup, *, batch: int = 1, **given: Any) -> None:
        super().__init__(text, setup, **given)
        self.batch = batch

    def due(self, now: int) -> bool:  # noqa: ARG002
        """Once there are enough."""
        return len(self.waiting) >= self.batch

    def update(self, now: int) -> None:  # noqa: ARG002
        """A step for each `batch` of them; what is left over waits."""
        while len(self.waiting) >= self.batch:
            rows, self.waiting = self.waiting[: self.batch], self.waiting[self.batch :]
            self.trainee.observe(rows)
            self.effort.learn(rows, self.trainee.passed.taken())
            self.effort.keep(len(self.waiting) + self.trainee.remembered)


class Drifting(Online):
    """Learns each label as it comes; when detectors say that errors have risen, it reacts."""

    looks = True

    def __init__(
        self,
        text: str,
        setup: Setup,
        *,
        found: str = DEFAULT,
        reactions: str = "boost",
        cooldown: int = 500,
        **given: Any,
    ) -> None:
        super().__init__(text, setup, **given)
        self.drift = Drift(found, reactions, cooldown=cooldown, make=self._rival)
        self.wrong = Wrong()

    def update(self, now: int) -> None:  # noqa: ARG002
        """A step for each of them, with what a drift has begun around it."""
        rows, self.waiting = self.waiting, []
        online = self.trainee.online
        for row, record, label in zip(rows, self.archive.records(rows), self.archive.labels(rows), strict=True):
            answer = self.archive.served(row)
            if answer is not None:
                self.drift.update(self.wrong(answer, label), online, row, record.time, label)
            self.drift.learn(online, [record], [label])
            self.effort.learn([row], self.trainee.passed.taken())
            self.effort.keep(self.held + self.trainee.remembered + self.drift.kept)

    def _rival(self) -> Engine:
        """What learns beside the model is learned, too."""
        return self.fresh(self.trainee.passed).online

    def state_dict(self) -> dict[str, Any]:
        """All that it has become."""
        return super().state_dict() | {
            "drift": self.drift.state_dict(),
            "wrong": [self.wrong.total, self.wrong.count],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes it again."""
        super().load_state_dict(state)
        self.drift.load_state_dict(state["drift"])
        self.wrong.total, self.wrong.count = state["wrong"]
