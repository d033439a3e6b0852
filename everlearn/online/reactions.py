"""What is done about drift, by name: none of it makes a model forget all that it knows."""

# ruff: noqa: ARG002 (a verb is given what every reaction might want)

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from everlearn.data.rows import Columns
from everlearn.models.probing import install, probed
from everlearn.models.views import bare
from everlearn.online.challenge import Challenge
from everlearn.online.engine import Online
from everlearn.online.latest import Latest
from everlearn.online.reaction import Learn, Reaction, raised
from everlearn.randomness import mix
from everlearn.spec import Spec, call, one_of, parse_chain
from everlearn.streams.experience import Experience
from everlearn.streams.feed import Label, Record


@dataclass
class Boost(Reaction):
    """Learns with `factor` times the learning rate, in all groups, for `steps` steps.

    The rate is raised around each step and put back after it. So between two steps it is always what it was, to the
    last bit: a checkpoint holds the true one, and there is nothing to be undone. A drift in the meantime makes the
    steps count anew, and multiplies nothing.
    """

    name: ClassVar[str] = "boost"

    factor: float = 5.0
    steps: int = 500

    left: int = field(default=0, init=False)
    """Steps that are still to be taken at the higher rate."""

    def check(self, online: Online) -> None:
        """There must be no schedule that sets the rate at each step."""
        if online.learner.make_scheduler is not None:
            raise ValueError("boost raises the learning rate, but a scheduler sets it; leave one of them out")

    def begin(self, online: Online, latest: Latest) -> str:
        """The steps count from now on."""
        longer, self.left = self.left > 0, self.steps
        return f"{'goes on with' if longer else 'learns with'} {self.factor:g} times the rate for {self.steps} steps"

    def learn(
        self, online: Online, records: Sequence[Record], labels: Sequence[Label], latest: Latest, rest: Learn
    ) -> float | None:
        """Learns at the higher rate."""
        if not self.left:
            return rest(records, labels)
        with raised(online.learner.optimizer, self.factor):
            loss = rest(records, labels)
        self.left -= 1
        return loss


@dataclass
class Recent(Reaction):
    """Joins rows from after the drift to those that are learned, for `steps` steps, until they are `share` of all.

    They are drawn from the last `rows` rows, each equally likely, but from none that is older than `since` rows before
    the drift was noticed: what came before shows the world as it was.
    """

    name: ClassVar[str] = "recent"

    share: float = 0.5
    rows: int = 1000
    steps: int = 2000
    since: int = 100
    seed: int = 0

    left: int = field(default=0, init=False)
    begun: int = field(default=0, init=False)
    """The number of the first row that may be drawn."""
    came: int = field(default=0, init=False)
    """Rows that have come since the drift."""
    joined: int = field(default=0, init=False)
    """Rows that have been joined to them."""
    draws: int = field(default=0, init=False)
    """How often rows have been drawn."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share, of recent rows in what is learned, must lie between 0 and 1, but is {self.share}")

    @property
    def wants(self) -> int:
        """Those that may be drawn."""
        return self.rows

    def begin(self, online: Online, latest: Latest) -> str:
        """Rows count as recent from here on."""
        self.left, self.begun, self.came, self.joined = self.steps, max(0, latest.number - self.since), 0, 0
        return f"recent rows are {self.share:.0%} of what is learned for {self.steps} steps"

    def learn(
        self, online: Online, records: Sequence[Record], labels: Sequence[Label], latest: Latest, rest: Learn
    ) -> float | None:
        """Joins some."""
        if not self.left:
            return rest(records, labels)
        among = min(self.rows, len(latest), latest.number - self.begun)
        came = self.came + len(records)
        count = int(came * self.share / (1 - self.share)) - self.joined if among else 0
        drawn = [latest[place - among] for place in self._places(among, count)]
        now = dict(zip((record.id for record in records), labels, strict=True))  # one of them may be corrected here
        beside = [now.get(row.id, label) for row, label in drawn]
        loss = rest([*records, *(row for row, _ in drawn)], [*labels, *beside])
        self.left, self.came, self.joined = self.left - 1, came, self.joined + count
        return loss

    def _places(self, among: int, count: int) -> list[int]:
        """`count` numbers below `among`: a function of the seed and of how often some were drawn."""
        if not count:
            return []
        generator = torch.Generator().manual_seed(mix(self.seed, self.draws))
        self.draws += 1
        places: list[int] = torch.randint(among, (count,), generator=generator).tolist()
        return places


@dataclass
class Refresh(Reaction):
    """Once `wait` more rows have come, fits the head to the last `rows` rows; the body stays as it is.

    The head becomes the logistic regression on the features of these rows, solved once, as `probe` does it: only the
    outputs of the classes among them change. What the optimizer knew of the head, its momentum say, was about other
    weights, and goes.
    """

    name: ClassVar[str] = "refresh"

    rows: int = 200
    wait: int = 100
    C: float = 1.0
    """The weight of the rows against the penalty."""

    due: int | None = field(default=None, init=False)
    """The number of rows with which it is time."""

    @property
    def wants(self) -> int:
        """Those that the head is fitted to."""
        return self.rows

    def check(self, online: Online) -> None:
        """There must be classes, and a head that answers."""
        if online.encoder.classes is None:
            raise ValueError("refresh fits a head to classes, but here numbers are predicted; take boost or recent")
        if online.learner.method.own_answers:
            raise ValueError("refresh fits a head, but here the method answers by itself; take recent")

    def begin(self, online: Online, latest: Latest) -> str:
        """Waits for rows from after the drift."""
        self.due = latest.number + self.wait
        return f"fits the head to the last {self.rows} rows when {self.wait} more have come"

    def learn(
        self, online: Online, records: Sequence[Record], labels: Sequence[Label], latest: Latest, rest: Learn
    ) -> float | None:
        """Fits the head before the rows are learned, if it is time."""
        if self.due is not None and latest.number >= self.due:
            self.due = None
            try:
                self.news.append(fitted(online, *latest.last(self.rows), C=self.C))
            except ValueError as error:  # about this model, and not about the rows that are to be learned
                self.news.append(f"could not fit the head: {error}")
        return rest(records, labels)


def fitted(online: Online, records: Sequence[Record], labels: Sequence[Label], *, C: float) -> str:  # noqa: N803
    """Fits the head of the engine to rows, and says so."""
    learner = online.learner
    rows = Columns(online.encoder.encode(records), y=online.encoder.targets(records, labels))
    weights = probed(learner.model, Experience(0, rows, rows), learner.objective, None, C)
    install(learner.model, weights)
    if learner.optimizer is not None:
        named = dict(bare(learner.model).named_parameters())
        for name in weights:
            learner.optimizer.state.pop(named[name], None)
    return f"fitted the head to {len(records)} rows"


REACTIONS: Mapping[str, type[Reaction]] = MappingProxyType(
    {each.name: each for each in (Reaction, Boost, Recent, Refresh, Challenge)}
)
"""The reactions there are, by the name a user types."""


def reactions(text: str, make: Callable[[], Online] | None = None) -> list[Reaction]:
    """The reactions that `text` names, joined by `+`; the first one wraps those that follow.

    A challenge comes first, wherever it stands: what is compared is answers to rows that are new. `make` makes an
    engine for one that begins anew.

    >>> reactions("boost:factor=3,steps=100+refresh")[0]
    Boost(news=[], factor=3.0, steps=100, left=0)
    """
    made = [_reaction(spec, make) for spec in parse_chain(text)]
    names = [each.name for each in made]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{text!r} names {double[0]!r} twice; a drift is answered once by each")
    return sorted(made, key=lambda each: not isinstance(each, Challenge))


def _reaction(spec: Spec, make: Callable[[], Online] | None) -> Reaction:
    cls = REACTIONS[one_of("reaction", spec.name, REACTIONS)]
    kinds = {each.name: each.default for each in fields(cls) if each.init and each.name != "make"}
    settings = dict(spec.settings)
    for name, value in settings.items():
        default = kinds.get(name)
        kind: Any = str if isinstance(default, str) else int if isinstance(default, int) else int | float
        if name in kinds and (isinstance(value, bool) or not isinstance(value, kind)):
            what = {str: "a word", int: "a whole number"}.get(kind, "a number")
            raise ValueError(f"{spec.name}: {name} must be {what}, but is {value!r}")
        if name in kinds and not isinstance(value, str) and not (value > 0 or (value == 0 and name in _MAY_BE_0)):
            raise ValueError(f"{spec.name}: {name} must be above 0, but is {value!r}")
        if isinstance(default, float):
            settings[name] = float(value)
    build = partial(Challenge, make=make) if cls is Challenge else cls
    made: Reaction = call(spec.name, build, settings, kinds)
    return made


_MAY_BE_0 = ("seed", "since", "wait", "learns")
