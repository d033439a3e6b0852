import pytest
from backtest.logs import HOUR, log

from everlearn import checkpoint
from everlearn.backtest.archive import Archive, LookaheadError
from everlearn.backtest.log import log_of
from everlearn.backtest.outcome import outcome_of
from everlearn.backtest.policy import Policy
from everlearn.backtest.replay import BLOCK, Replay
from everlearn.online.span import Span
from everlearn.streams.feed import Record


class Spy(Policy):
    """Notes all that it is told, in order; learns every `every` labels."""

    def __init__(self, archive, every=1):
        super().__init__("spy", archive)
        self.every, self.waiting, self.heard = every, 0, []

    def warm_up(self, rows):
        self.heard.append(("warm", list(rows)))
        self.archive.labels(rows)

    def arrive(self, rows):
        self.heard.append(("labels", self.archive.now, list(rows)))
        self.archive.labels(rows)
        self.waiting += len(rows)

    def due(self, now):
        return self.waiting >= self.every

    def update(self, now):
        self.heard.append(("learned", now))
        self.waiting = 0

    def answer(self, rows):
        self.heard.append(("asked", list(rows)))
        self.archive.records(rows)
        return ["yes"] * len(rows)


def walk(made, spy_every=1, warm=20):
    archive = Archive(made)
    spy = Spy(archive, spy_every)
    replay = Replay(made, archive, spy, warm)
    for _ in replay.steps():
        pass
    return spy, replay


LOGS = {
    "at once": lambda: log(700),
    "rows late": lambda: log(700, delay=Span.of(37)),
    "hours late": lambda: log(700, delay=Span.of("30h")),
    "without times": lambda: log(700, timed=False, delay=Span.of(3)),
    "now and then": lambda: shuffled(),  # noqa: PLW0108 (it stands below)
}
every_log = pytest.mark.parametrize("made", LOGS.values(), ids=LOGS)


def shuffled():
    """Labels come in another order than their rows, some late, some never."""
    made = []
    for i in range(700):
        made.append(Record(f"r{i}", {"x": float(i)}, None, HOUR * i))
        due = [i - back for place, back in enumerate((5, 2, 90)) if i >= back and (i - back) % 3 == place]
        made += [Record(f"r{row}", {}, "yes" if i % 2 else "no") for row in due]
    return log_of("log", made)


@every_log
@pytest.mark.parametrize("every", [1, 50])
def test_no_policy_sees_a_label_before_its_time(made, every):
    made = made()
    spy, _ = walk(made, every)
    for what, *told in spy.heard:
        if what == "labels":
            now, rows = told
            assert all(made.arrivals[row] == now > row for row in rows)
    told = [row for what, *rest in spy.heard if what == "labels" for row in rest[1]] + spy.heard[0][1]
    assert sorted(told) == [
        i for i, label in enumerate(made.labels) if label is not None and made.arrivals[i] < len(made)
    ]


@every_log
@pytest.mark.parametrize("every", [1, 50])
def test_each_row_is_asked_once_in_order_and_before_its_label_could_be_learned(made, every):
    made = made()
    spy, replay = walk(made, every)
    asked, known = [], set()
    for what, *told in spy.heard:
        if what == "asked":
            asked += told[0]
            assert not known & set(told[0])
        elif what == "learned":
            assert asked == list(range(20, told[0]))  # all rows before this one have been served by the model as it was
            known |= {i for i in range(len(made)) if made.arrivals[i] <= told[0]}
    assert asked == list(range(20, len(made)))
    assert len(replay.answers) == len(made) - 20


def test_the_warm_up_knows_what_had_arrived_by_its_end_and_nothing_else():
    made = log(100, delay=Span.of(7))
    spy, _ = walk(made)
    assert spy.heard[0] == ("warm", list(range(13)))
    assert spy.heard[1] == ("labels", 21, [13])
    assert spy.heard[2] == ("asked", [20])  # by the model as it was: it learns afterwards


def test_what_is_ahead_cannot_be_read():
    made = log(50, delay=Span.of(5))
    archive = Archive(made)
    archive.at(20)
    assert archive.labels([14]) == [made.labels[14]]
    with pytest.raises(LookaheadError, match=r"label of row 15 .* when row 20 was asked; it is known when row 21"):
        archive.labels([15])
    with pytest.raises(LookaheadError, match=r"row 21 was read"):
        archive.records([21])
    with pytest.raises(LookaheadError, match=r"time of row 21"):
        archive.clock(21)


def test_a_policy_that_says_nothing_of_it_cannot_look_at_answers_that_are_still_to_come():
    made = log(50)
    archive = Archive(made)
    archive.first = 10
    archive.answers += ["yes"] * 5
    assert archive.served(9) is None
    assert archive.served(14) == "yes"
    with pytest.raises(LookaheadError, match=r"before it was given"):
        archive.served(15)


def test_rows_are_asked_in_blocks_where_nothing_changes():
    made = log(2 * BLOCK + 10)
    spy, _ = walk(made, 10**9)
    asked = [told for what, *told in spy.heard if what == "asked"]
    assert len(asked) == 3


def test_the_age_is_that_of_the_newest_row_that_was_learned():
    class Learns(Spy):
        def warm_up(self, rows):
            self.effort.newest = max(rows)

        def update(self, now):
            super().update(now)
            self.effort.newest = now - 3

    made = log(60, delay=Span.of(2))
    archive = Archive(made)
    replay = Replay(made, archive, Learns(archive), 20)
    for _ in replay.steps():
        pass
    found = outcome_of(replay)
    assert found.age == pytest.approx(3 * HOUR)
    assert found.age95 == pytest.approx(3 * HOUR)


def test_the_error_is_that_of_the_answers_that_were_served():
    made = log(120)
    _, replay = walk(made)
    found = outcome_of(replay)
    right = sum(label == "yes" for label in made.labels[20:])
    assert found.error == pytest.approx(1 - right / 100)
    assert found.readings["accuracy"] == pytest.approx(right / 100)
    assert found.curve[-1][0] == 119


def test_a_replay_goes_on_from_its_state_as_if_nothing_had_been(tmp_path):
    made = log(3 * BLOCK)
    _, whole = walk(made, 50)
    archive = Archive(made)
    first = Replay(made, archive, Spy(archive, 50), 20)
    steps = first.steps()
    for _ in range(2):
        next(steps)
    checkpoint.save(first.state_dict(), tmp_path / "state")
    archive = Archive(made)
    second = Replay(made, archive, Spy(archive, 50), 20)
    second.load_state_dict(checkpoint.load(tmp_path / "state"))
    for _ in second.steps():
        pass
    assert second.answers == whole.answers
    assert second.newest == whole.newest
