import io
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from everlearn.metrics import READINGS, Report, Result, Scores, read

VOID = {"meta", "link", "br"}


def run(experiences, classes=2, *, keep=0.8, middle=0, names=(), seed=0, kind="accuracy"):
    """Scores as a run would leave them, with evaluations in the middle of each experience."""
    draw = random.Random(seed)
    scores = Scores(kind=kind, names=names)
    for after in range(experiences):
        for part in range(middle + 1):
            for on in range(after + 1):
                by_class = {
                    f"class {on * classes + c}": (
                        min(100, round(90 * keep ** (after - on)) + draw.randint(0, 9)),
                        100,
                    )
                    for c in range(classes)
                }
                correct = float(sum(right for right, _ in by_class.values()))
                result = Result(correct, 100 * classes, by_class)
                step = 10 * (after * (middle + 1) + part + 1)
                scores.add(result, after=after, on=on, step=step, final=part == middle)
        scores.note(after, seconds=3.0 + after, memory_bytes=1000 * (after + 1), memory_rows=10)
    return scores


class Page(HTMLParser):
    """Checks the nesting of a page, and keeps its elements and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


SIZES = [(1, 5, 0), (2, 5, 0), (3, 2, 4), (20, 5, 2), (9, 12, 1)]


@pytest.mark.parametrize(("experiences", "classes", "middle"), SIZES)
def test_a_page_is_well_formed_and_whole_for_any_number_of_experiences(experiences, classes, middle):
    runs = {name: run(experiences, classes, middle=middle, seed=seed) for seed, name in enumerate("ab")}
    text = Report("A title", runs, {"seed": 0, "stream": {"by": "class"}}).to_html()
    page = Page(text)
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identities)) == len(identities)
    assert set(READINGS) <= set(identities)
    assert {link["href"][1:] for link in page.all("a")} <= set(identities)
    assert "nan" not in text.replace("nance", "")
    for name in ("Settings", "All readings", "Time and memory"):
        assert name in page.text


def test_a_page_needs_nothing_from_outside_and_runs_nothing():
    text = Report("A title", {"a": run(3)}, {"seed": 0}).to_html()
    page = Page(text)
    assert not page.all("script")
    assert not page.all("img")
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    assert all(link["href"].startswith("data:") for link in page.all("link"))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_what_a_user_wrote_is_text_on_the_page_and_never_markup():
    evil = '<script>alert("1")</script>&<b>'
    scores = run(3, names=[evil, "b", "c"], middle=1)
    scores.add(Result(1, 2, {evil: (1, 2)}), after=0, on=0, step=20)
    scores.add(Result(1, 2, {evil: (1, 2)}), after=2, on=0, step=60)
    page = Page(Report(evil, {evil: scores, "x": run(3)}, {evil: {evil: [evil]}}).to_html())
    assert not page.all("script")
    assert page.text.count(evil) >= 5
    assert "b" in page.open or not [tag for tag, attributes in page.elements if tag == "b" and attributes]


def test_every_picture_says_what_it_shows_or_is_hidden_because_a_number_stands_beside_it():
    text = Report("A title", {"a": run(20, 5), "b": run(20, 5)}).to_html()
    pictures = re.findall(r"<svg[^>]*>(?:<title>.*?</title>)?(?:<desc>.*?</desc>)?", text)
    assert pictures
    for picture in pictures:
        described = 'role="img"' in picture and "<title>" in picture and "<desc>" in picture
        assert described or 'aria-hidden="true"' in picture


def test_the_numbers_of_the_matrix_stand_on_the_page():
    scores = run(3, 2)
    page = Page(Report("A title", {"a": scores}).to_html())
    for row in scores.matrix().tolist():
        for value in row:
            if not math.isnan(value):
                assert f"{100 * value:.1f}" in page.text


def test_many_classes_are_folded_and_none_is_left_out():
    page = Page(Report("A title", {"a": run(21, 5)}).to_html())
    assert len(page.all("details")) == 1
    assert "The other 76 classes" in page.text
    for number in range(100):
        assert f"class {number}" in page.text


def test_classes_stand_in_the_order_of_what_they_lost():
    report = Report("A title", {"a": run(5, 4)})
    changes = [entry["after"] - entry["before"] for entry in report.to_json()["runs"]["a"]["classes"].values()]
    assert len(changes) == 16
    assert changes == sorted(changes)


def test_the_json_is_strict_and_has_the_raw_scores_and_every_reading():
    scores = run(3)
    text = json.dumps(Report("A title", {"a": scores}, {"seed": 7}).to_json(), allow_nan=False)
    report = json.loads(text)
    entry = report["runs"]["a"]
    values, missing = read(scores)
    assert entry["readings"] == values
    assert entry["not_measured"] == missing
    assert entry["average_accuracy"] == values["average_accuracy"]
    assert entry["forgetting"] == values["forgetting"]
    assert entry["matrix"][0][1] is None
    assert report["facts"] == {"seed": 7}
    assert set(report["definitions"]) == set(READINGS)
    again = Scores()
    again.load_state_dict(entry["scores"])
    assert read(again) == (values, missing)


def test_the_last_update_compares_old_and_new_before_and_after():
    nan = math.nan
    scores = Scores.of([[0.9, nan, 0.1], [0.8, 0.7, 0.2], [0.6, 0.7, 0.95]], 10)
    update = Report("A title", {"a": scores}).to_json()["runs"]["a"]["last_update"]
    assert update["old"]["before"] == pytest.approx(0.75)
    assert update["old"]["after"] == pytest.approx(0.65)
    assert update["new"] == {"before": pytest.approx(0.2), "after": pytest.approx(0.95)}


def test_the_summary_names_the_best_method_and_its_numbers():
    good = Scores.of([[0.9, math.nan], [0.85, 0.9]], 100)
    bad = Scores.of([[0.9, math.nan], [0.2, 0.9]], 100)
    summary = Report("A title", {"bad": bad, "good": good}).to_json()["summary"]
    assert summary == (
        "Of 2 methods, good ends best, with an average accuracy of 87.5 % and 5.0 points lost on earlier "
        "experiences; bad ends last, with 55.0 % and 70.0 points lost on earlier experiences."
    )


@pytest.mark.parametrize(
    ("last", "words"),
    [(0.9, "and nothing lost on"), (0.95, "and 5.0 points gained on"), (0.8, "and 10.0 points lost")],
)
def test_the_summary_of_one_run_says_what_became_of_what_was_known(last, words):
    scores = Scores.of([[0.9, math.nan], [last, 0.9]], 100)
    assert words in Report("A title", {"a": scores}).to_json()["summary"]


def test_of_errors_the_smallest_is_the_best_and_its_rise_is_forgetting():
    low = Scores.of([[0.1, math.nan], [0.15, 0.2]], 10, kind="error")
    high = Scores.of([[0.1, math.nan], [0.9, 0.2]], 10, kind="error")
    report = Report("Load", {"high": high, "low": low})
    assert report.to_json()["summary"].startswith("Of 2 methods, low ends best, with an average error of 0.175")
    assert report.to_json()["runs"]["high"]["average_error"] == pytest.approx(0.55)
    assert report.to_json()["runs"]["high"]["forgetting"] == pytest.approx(0.8)
    assert "%" not in Page(report.to_html()).text.replace("100 %", "")


def test_the_terminal_shows_each_experience_the_average_and_what_was_forgotten():
    output = io.StringIO()
    runs = {"[red]replay": run(3, names=["cats", "dogs", "[b]ships"]), "tuning": run(2)}
    Report("A [title]", runs).to_terminal(Console(file=output, width=120))
    text = output.getvalue()
    values, _ = read(runs["[red]replay"])
    for expected in (
        "A [title]",
        "[red]replay",
        "[b]ships",
        "average accuracy",
        "forgetting",
        "12.0 s",
    ):
        assert expected in text
    assert f"{100 * values['average_accuracy']:.1f}" in text
    assert f"+{100 * values['forgetting']:.1f}" in text


def test_a_run_without_measurements_is_shown_as_such():
    report = Report("A title", {"a": Scores()})
    assert "Nothing was measured" in Page(report.to_html()).text
    assert report.to_json()["runs"]["a"]["average_accuracy"] is None
    report.to_terminal(Console(file=io.StringIO()))


def test_a_run_that_is_in_the_middle_of_its_first_experience_is_shown():
    scores = Scores()
    for step in (1, 2, 3):
        scores.add(Result(step, 10), after=0, on=0, step=step, final=False)
    Page(Report("A title", {"a": scores, "b": run(2, middle=1)}).to_html())


def test_writing_leaves_two_files_and_nothing_else(tmp_path):
    report = Report("A title", {"a": run(2)})
    page = report.write(tmp_path / "new" / "folder")
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    assert page.read_text(encoding="utf-8") == report.to_html()
    assert json.loads((page.parent / "report.json").read_text(encoding="utf-8")) == report.to_json()


def test_a_crash_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    Report("old", {"a": run(2)}).write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        Report("new", {"a": run(2)}).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_scores_make_the_same_page():
    assert Report("A", {"a": run(3)}).to_html() == Report("A", {"a": run(3)}).to_html()


def test_reports_that_cannot_be_made_are_errors():
    with pytest.raises(ValueError, match="at least one run"):
        Report("A title", {})
    with pytest.raises(ValueError, match="'error'"):
        Report("A title", {"a": Scores(), "b": Scores(kind="error")})
    with pytest.raises(ValueError, match="JSON"):
        Report("A title", {"a": Scores()}, {"model": object()})
    with pytest.raises(ValueError, match="JSON"):
        Report("A title", {"a": Scores()}, {"lr": math.nan})
