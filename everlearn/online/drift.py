"""Drift: detectors are told each error, what they say becomes an event, and reactions answer it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from everlearn.online.detectors import DEFAULT, Detector
from everlearn.online.detectors import detectors as detectors_of
from everlearn.online.engine import Online
from everlearn.online.latest import Latest
from everlearn.online.reaction import Learn, Reaction
from everlearn.online.reactions import reactions as named
from everlearn.streams.feed import Label, Record


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened about drift: it was noticed, or what was begun then came to an end."""

    at: int
    """The row, as the caller counts."""
    time: float | None
    """When that was, if anybody said."""
    detector: str
    """Which noticed it, joined by "+" if several did at once; with "[class]" for the errors of one class. "" for an
    end."""
    reaction: str
    detail: str = ""


class Drift:
    """Watches errors, and reacts.

    `detectors` and `reactions` are texts, their parts joined by "+", or objects. For `warmup` errors nothing counts as
    drift: a model that has learned little is often wrong. After an event nothing counts for `cooldown` errors, as
    detectors repeat each other, and those that had not spoken begin anew: one drift is one event. What was said in
    vain is counted in `silenced`. With `by_class=N` there are detectors for the errors on each of the first N classes,
    too. Of the events the last `keep` are kept. `make` makes an engine, for reactions that need a new one.

    Rows are learned through `learn`, so that reactions can take part:

        for event in drift.update(error, online, at=row):
            print(event)
        drift.learn(online, [record], [label])
    """

    def __init__(
        self,
        detectors: str | Sequence[Detector] = DEFAULT,
        reactions: str | Sequence[Reaction] = "alert",
        *,
        cooldown: int = 500,
        warmup: int = 200,
        by_class: int = 0,
        keep: int = 1000,
        make: Callable[[], Online] | None = None,
    ) -> None:
        for name, value in {"cooldown": cooldown, "warmup": warmup, "by_class": by_class, "keep": keep}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, but is {value}")
        if by_class and not isinstance(detectors, str):
            raise ValueError("by_class makes detectors for each class, so it needs them as text: adwin+page-hinkley")
        self.cooldown, self.warmup, self.by_class = cooldown, warmup, by_class
        self.reactions = named(reactions, make) if isinstance(reactions, str) else list(reactions)
        self.rows = 0
        """Errors that it has been told."""
        self.count = 0
        """Drifts that were noticed."""
        self.silenced = 0
        """How often a detector spoke in the warm-up or a cooldown."""
        self._text = detectors
        self._watching = {"": _made(detectors)}
        self._new = [each.state_dict() for each in self._watching[""]]
        self._quiet = warmup
        """Nothing counts before this row."""
        self._events: deque[Event] = deque(maxlen=keep)
        self._untold: list[Event] = []
        self._place: tuple[int, float | None] = (0, None)
        self._latest = Latest(max((each.wants for each in self.reactions), default=0))
        self._checked = False

    @property
    def events(self) -> list[Event]:
        """What has happened, the latest last."""
        return list(self._events)

    @property
    def kept(self) -> int:
        """How many of the latest rows are kept for reactions to go by."""
        return len(self._latest)

    def update(
        self, error: float, online: Online, at: int, time: float | None = None, label: Label | None = None
    ) -> list[Event]:
        """Takes the error of row `at`, from 0 (right) to 1 (wrong), and returns what has happened since the last call.

        `label` is the class of the row, for detectors by class. Reactions begin here: call it before the row is
        learned.
        """
        self._check(online)
        self._place = at, time
        spoke = {group: self._asked(group, error) for group in self._groups(label)}
        self.rows += 1
        said = [_said(name, group) for group, names in spoke.items() for name in names]
        if said and self.rows <= self._quiet:
            self.silenced += len(said)
        elif said:
            self._react(online, "+".join(said), [group for group, names in spoke.items() if names])
        told, self._untold = self._untold, []
        return told

    def learn(self, online: Online, records: Sequence[Record], labels: Sequence[Label]) -> float | None:
        """`online.learn`, with the reactions around it."""
        self._check(online)
        learn: Learn = online.learn
        for each in reversed(self.reactions):
            learn = partial(each.learn, online, latest=self._latest, rest=learn)
        loss = learn(records, labels)
        self._latest.add(records, labels)
        for each in self.reactions:
            for text in each.news:
                self._happened(Event(*self._place, "", each.name, text))
            each.news.clear()
        return loss

    def table(self) -> str:
        """The events as lines of text.

        >>> drift = Drift(warmup=0)
        >>> drift.table()
        'no drift was noticed'
        """
        if not self._events:
            return "no drift was noticed"
        rows = [
            ("row", "detector", "reaction", "what"),
            *((str(e.at), e.detector, e.reaction, e.detail) for e in self._events),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def state_dict(self) -> dict[str, Any]:
        """All that decides about what is noticed and done from now on."""
        return {
            "rows": self.rows,
            "count": self.count,
            "silenced": self.silenced,
            "quiet": self._quiet,
            "place": list(self._place),
            "events": [list(astuple(event)) for event in self._events],
            "untold": [list(astuple(event)) for event in self._untold],
            "watch": [each.name for each in self._watching[""]],
            "detectors": {group: [each.state_dict() for each in some] for group, some in self._watching.items()},
            "reactions": {each.name: each.state_dict() for each in self.reactions},
            "latest": self._latest.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` gave; a ValueError if that had other detectors or reactions."""
        watch = [each.name for each in self._watching[""]]
        answer = [each.name for each in self.reactions]
        for what, ours, theirs in (
            ("detectors", watch, state["watch"]),
            ("reactions", answer, list(state["reactions"])),
        ):
            if ours != theirs:
                raise ValueError(f"the state has the {what} {theirs}, but here they are {ours}; take the same ones")
        watching = {group: _made(self._text) for group in state["detectors"]}
        for group, some in watching.items():
            for watcher, saved in zip(some, state["detectors"][group], strict=True):
                watcher.load_state_dict(saved)
        self._watching = watching
        self.rows, self.count, self.silenced = state["rows"], state["count"], state["silenced"]
        self._quiet = state["quiet"]
        at, time = state["place"]
        self._place = at, time
        self._events = deque((Event(*event) for event in state["events"]), maxlen=self._events.maxlen)
        self._untold = [Event(*event) for event in state["untold"]]
        for each in self.reactions:
            each.load_state_dict(state["reactions"][each.name])
        self._latest.load_state_dict(state["latest"])

    # -- inside -----------------------------------------------------------------------------------------------

    def _check(self, online: Online) -> None:
        if not self._checked:
            for each in self.reactions:
                each.check(online)
            self._checked = True

    def _groups(self, label: Label | None) -> tuple[str, ...]:
        """All errors, and those on rows of this class."""
        if not self.by_class or not isinstance(label, str):
            return ("",)
        group = f"class {label}"
        if group not in self._watching and len(self._watching) <= self.by_class:
            self._watching[group] = _made(self._text)
        return ("", group) if group in self._watching else ("",)

    def _asked(self, group: str, error: float) -> list[str]:
        """The names of the detectors that say there is drift."""
        return [each.name for each in self._watching[group] if each.update(error)]

    def _react(self, online: Online, detector: str, groups: Sequence[str]) -> None:
        self.count += 1
        self._quiet = self.rows + self.cooldown
        for group in self._watching if "" in groups else {"", *groups}:
            for watcher, new in zip(self._watching[group], self._new, strict=True):
                watcher.load_state_dict(new)
        for each in self.reactions:
            self._happened(Event(*self._place, detector, each.name, each.begin(online, self._latest)))

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        self._untold.append(event)


def _made(detectors: str | Sequence[Detector]) -> list[Detector]:
    return detectors_of(detectors) if isinstance(detectors, str) else list(detectors)


def _said(name: str, group: str) -> str:
    return f"{name} [{group.removeprefix('class ')}]" if group else name
