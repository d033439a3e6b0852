import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from everlearn.backtest.cells import COLUMNS
from everlearn.backtest.outcome import Outcome, curve
from everlearn.backtest.policy import Effort
from everlearn.backtest.report import Report
from everlearn.backtest.verdict import judged, summary

ROWS = 2000


def outcome(name, share, *, trained=0, kept=0, seed=0, learning=None):
    """An outcome with about this share of errors, independent of the others."""
    errors = (np.random.default_rng(seed).random(ROWS) < share).astype(float)
    places = np.arange(ROWS, dtype=float)
    seconds = {"warm-up": 1.0, "learning": trained / 1000 if learning is None else learning, "answering": 0.5}
    return Outcome(name, errors, curve(places, errors), {}, Effort(trained, 3, kept), seconds, 100.0, 200.0)


def verdict(*outcomes):
    return judged(outcomes, regression=False)


def test_the_best_has_the_smallest_error_and_equals_are_told_from_those_behind():
    found = verdict(
        outcome("never", 0.4, seed=1),
        outcome("online", 0.2, trained=2000, seed=2),
        outcome("er", 0.2, trained=4000, seed=3),
    )
    assert found.best.name in {"online", "er"}
    assert {each.name for each in found.tied} == {"online", "er"}
    assert found.advised.name == "online"
    assert found.behind["never"].low > 0.1


def test_what_trains_on_fewer_rows_is_not_advised_where_it_is_slower_and_no_better():
    slow = outcome("online", 0.2, trained=2000, seed=2, learning=11.7)
    quick = outcome("finetune", 0.19, trained=9000, seed=3, learning=1.7)
    found = verdict(outcome("never", 0.4, seed=1), slow, quick)
    assert {each.name for each in found.tied} == {"online", "finetune"}
    assert (found.best.name, found.advised.name) == ("finetune", "finetune")
    assert "online trains on fewer rows, but takes longer)" in summary(found)
    nearly = outcome("finetune", 0.19, trained=9000, seed=3, learning=10.9)
    assert verdict(outcome("never", 0.4, seed=1), slow, nearly).advised.name == "online"


def test_it_says_so_when_retraining_is_best():
    found = verdict(outcome("never", 0.4, seed=1), outcome("retrain:every=7d", 0.1, trained=9999, seed=2))
    assert summary(found).startswith("retrain:every=7d is best, with")
    assert "Keep retraining" in summary(found)


def test_it_says_so_when_updates_are_worth_nothing():
    found = verdict(
        outcome("never", 0.2, seed=1),
        outcome("retrain:every=7d", 0.2, trained=9999, seed=2),
        outcome("no-change", 0.5, seed=3),
    )
    assert "leave the model as it is" in summary(found)
    assert "not shown to be worse" in summary(found)


def test_without_a_policy_that_learned_nothing_is_said_of_updates():
    said = summary(verdict(outcome("never", 0.2, seed=1), outcome("no-change", 0.5, seed=3)))
    assert "nothing is said of what updates are worth" in said
    assert "leave the model as it is" not in said


def test_how_much_worse_the_advised_one_may_be_is_said():
    found = verdict(outcome("never", 0.21, seed=5), outcome("online", 0.2, trained=9, seed=25))
    assert found.best.name == "online"
    high = found.behind["never"].high
    assert found.advised.name == "never"
    assert f"By its interval never may be up to {100 * high:.1f} points worse than online." in summary(found)


def test_it_says_so_when_no_model_earns_its_keep():
    found = verdict(outcome("no-change", 0.1, seed=1), outcome("online", 0.3, trained=5, seed=2))
    assert "No model here earns its keep: no-change needs none" in summary(found)
    found = verdict(outcome("no-change", 0.2, seed=1), outcome("online", 0.2, trained=5, seed=2))
    assert "No model here is shown to be better than no-change" in summary(found)


def test_what_is_advised_is_shown_beside_the_best_retraining_and_standing_still():
    found = verdict(
        outcome("online", 0.1, trained=2000, kept=1, seed=1),
        outcome("retrain:every=7d", 0.2, trained=90_000, kept=2000, seed=2),
        outcome("never", 0.4, seed=3),
    )
    said = summary(found)
    assert "Take online (2,000 rows trained in 2.0 s, 1 kept)." in said
    assert "The best retraining is retrain:every=7d (90,000 rows trained in 1.5 min, 2,000 kept)." in said
    assert "Without updates it would be" in said


def test_a_log_too_short_for_intervals_is_said_to_be():
    errors = np.repeat([0.0, 1.0, 0.0, 1.0], 10)  # errors that come in long runs
    first = Outcome("a", errors, (), {}, Effort(), {"learning": 0.0}, 0, 0)
    second = Outcome("b", 1 - np.repeat([0.0, 1.0, 1.0, 1.0], 10), (), {}, Effort(), {"learning": 0.0}, 0, 0)
    assert "The log is short for such intervals" in summary(verdict(first, second))


def test_a_curve_is_the_mean_error_of_the_rows_before():
    errors = np.arange(100, dtype=float)
    points = curve(np.arange(100, dtype=float) + 50, errors)
    assert points[0] == (69.0, pytest.approx(np.mean(errors[:20])))
    assert points[-1] == (149.0, pytest.approx(np.mean(errors[80:])))
    assert len(points) <= 120


def test_the_page_escapes_names_and_needs_nothing_from_outside():
    found = verdict(outcome("<script>", 0.4, seed=1), outcome("online", 0.2, trained=10, seed=2))
    html = Report("A & B", found, {"log": "<b>"}, timed=True).to_html()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "A &amp; B" in html
    assert "http" not in html.replace("http-equiv", "")
    assert all(column.title in html for column in COLUMNS)


def test_the_table_in_the_terminal_has_a_line_for_each_policy():
    found = verdict(outcome("never", 0.4, seed=1), outcome("online", 0.2, trained=10, seed=2))
    console = Console(width=200, record=True, file=StringIO())
    console.print(Report("Title", found, {}, timed=False).table())
    text = console.export_text()
    assert "best" in text
    assert "100 (200)" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_sees_whole_numbers_and_is_told_what_it_does_not_see(width):
    names = ("retrain:every=2000,warm=true,epochs=5", "online")
    found = verdict(outcome(names[0], 0.4, seed=1), outcome(names[1], 0.2, trained=1_000_000, seed=2))
    console = Console(width=width, record=True, file=StringIO())
    console.print(Report("Title", found, {}, timed=False).table(width))
    text = console.export_text()
    assert "…" not in text
    assert re.search(r"\d\d\.\d % +best", text)
    assert ("1,000,000" in text) != ("trained" in text.partition("only in the report:")[2])


def test_errors_of_numbers_are_no_percentages():
    found = judged([outcome("never", 0.4, seed=1), outcome("online", 0.2, seed=2)], regression=True)
    assert "mean absolute error of 0." in summary(found)
    report = Report("Title", found, {}, timed=True)
    assert "kappa-T" not in report.to_html().partition("What the columns mean")[0]
    assert report.to_json()["error"] == "mean absolute error"
