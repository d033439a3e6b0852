"""Counts that are kept row by row say what counting all rows again would say."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from everlearn import checkpoint
from everlearn.batch import UNLABELED
from everlearn.metrics import READINGS
from everlearn.metrics.definitions import DEFINITIONS, definition
from everlearn.metrics.intervals import Blocks, wilson
from everlearn.metrics.prequential import KEPT, Prequential, prequential

NAMES = ("sun", "rain", "snow")


def weather(count, seed=0, sticky=0.6):
    """(answer, class): classes that stay for a while, answers that are right more often than not."""
    draw, now, rows = random.Random(seed), NAMES[0], []
    for _ in range(count):
        now = now if draw.random() < sticky else draw.choices(NAMES, (6, 3, 1))[0]
        rows.append((now if draw.random() < 0.7 else draw.choice(NAMES), now))
    return rows


def numbers(count, seed=0):
    draw, now, rows = random.Random(seed), 5.0, []
    for _ in range(count):
        now = 0.9 * now + draw.gauss(0, 1)
        rows.append((now + draw.gauss(0.2, 0.5), now))
    return rows


def counted(rows, kind="accuracy", **settings):
    score = Prequential(kind, **settings)
    for row in rows:
        score.update(*row)
    return score


def baselines(rows):
    """Of each row, whether the class before and the most frequent class before are right; of equals the first one."""
    found, most = [], None
    for i, (_, actual) in enumerate(rows):
        found.append((i > 0 and rows[i - 1][1] == actual, most == actual))
        counts = {name: sum(a == name for _, a in rows[: i + 1]) for name in NAMES}
        if most is None or counts[actual] > counts[most]:
            most = actual
    return found


def by_hand(rows, simple):
    """The readings, from the rows themselves."""
    n = len(rows)
    p = sum(a == b for a, b in rows) / n
    pe = sum(sum(a == k for a, _ in rows) * sum(b == k for _, b in rows) for k in NAMES) / n**2
    pt, pm = (sum(x) / n for x in zip(*simple, strict=True))
    recalls = {k: [a == b for a, b in rows if b == k] for k in NAMES}
    return {
        "accuracy": p,
        "kappa": (p - pe) / (1 - pe),
        "kappa_m": (p - pm) / (1 - pm),
        "kappa_t": (p - pt) / (1 - pt),
        "no_change": pt,
        "majority": pm,
        "worst_recall": min(sum(x) / len(x) for x in recalls.values() if x),
    }


@pytest.mark.parametrize("count", [40, 50, 51, 233])
def test_accuracy_kappas_and_recalls_are_those_of_counting_all_rows_again(count):
    rows = weather(count)
    reading, simple = counted(rows, window=50, fading=0.97).reading(), baselines(rows)
    expected = by_hand(rows, simple)
    windowed = by_hand(rows[-50:], simple[-50:])
    expected |= {"windowed": windowed.pop("accuracy")} | {f"windowed_{name}": value for name, value in windowed.items()}
    age = 0.97 ** np.arange(count)[::-1]
    expected["fading"] = (age * [a == b for a, b in rows]).sum() / age.sum()
    for name, value in expected.items():
        assert reading[name] == pytest.approx(value, abs=1e-12), name
    for k in NAMES:
        assert reading[f"recall[{k}]"] == pytest.approx(np.mean([a == b for a, b in rows if b == k]))
    assert reading["rows"] == count


@pytest.mark.parametrize("count", [50, 51, 233])
def test_errors_and_skills_are_those_of_summing_all_rows_again(count):
    rows = numbers(count)
    reading = counted(rows, "error", window=50, fading=0.97).reading()
    given, actual = np.array(rows).T
    before = np.r_[np.nan, actual[:-1]]
    mean = np.r_[np.nan, (np.cumsum(actual) / np.arange(1, count + 1))[:-1]]
    one, age = np.ones(count), 0.97 ** np.arange(count)[::-1]
    for prefix, weight in (("", one), ("windowed_", one * (np.arange(count) >= count - 50)), ("fading_", age)):
        off = given - actual
        center = (weight * actual).sum() / weight.sum()
        later = np.where(np.arange(count) > 0, weight, 0)
        squares = (later * off**2).sum()
        expected = {
            "mae": (weight * abs(off)).sum() / weight.sum(),
            "rmse": math.sqrt((weight * off**2).sum() / weight.sum()),
            "r2": 1 - (weight * off**2).sum() / (weight * (actual - center) ** 2).sum(),
            "no_change_mae": np.nansum(later * abs(before - actual)) / later.sum(),
            "running_mean_rmse": math.sqrt(np.nansum(later * (mean - actual) ** 2) / later.sum()),
            "skill_no_change": 1 - squares / np.nansum(later * (before - actual) ** 2),
            "skill_running_mean": 1 - squares / np.nansum(later * (mean - actual) ** 2),
        }
        for name, value in expected.items():
            assert reading[prefix + name] == pytest.approx(value, rel=1e-9), prefix + name


def test_an_enormous_value_leaves_no_trace_once_the_window_has_passed_it():
    rows = [(1e14, -1e14), *numbers(60)]
    assert (
        counted(rows, "error", window=50).reading()["windowed_rmse"]
        == counted(rows[1:], "error", window=50).reading()["windowed_rmse"]
    )


@pytest.mark.parametrize("kind", ["accuracy", "error"])
def test_a_corrected_label_counts_as_if_it_had_been_right_at_once(kind):
    rows = (weather if kind == "accuracy" else numbers)(200)
    true = [(given, actual) for given, actual in rows]
    score, draw = counted(rows, kind), random.Random(1)
    for place in (7, 80, 199, 80):
        new = draw.choice(NAMES) if kind == "accuracy" else draw.gauss(0, 3)
        score.correct(true[place][0], true[place][1], new)
        true[place] = (true[place][0], new)
    reading, expected = score.reading(), counted(true, kind).reading()
    names = ("accuracy", "kappa", "worst_recall", "recall[rain]", "accuracy_low") if kind == "accuracy" else ()
    for name in names or ("mae", "rmse", "r2"):
        assert reading[name] == pytest.approx(expected[name], rel=1e-12), name
    assert reading["rows"] == 200
    assert score.corrected == 4
    before = counted(rows, kind).reading()
    for name in (
        ("windowed", "fading", "no_change", "majority") if kind == "accuracy" else ("windowed_mae", "fading_r2")
    ):
        assert reading[name] == before[name], name


def test_after_a_correction_the_majority_follows_the_labels_as_they_are_now():
    score = counted([("sun", "sun"), ("sun", "sun"), ("sun", "rain")])
    score.correct("sun", "sun", "rain")
    before = score.tally.all.majority
    score.update("sun", "rain")
    assert score.tally.all.majority == before + 1


def test_what_was_never_counted_cannot_be_corrected():
    score = counted([("sun", "rain")])
    with pytest.raises(ValueError, match="no row of the class 'sun' was answered 'sun'"):
        score.correct("sun", "sun", "rain")
    with pytest.raises(ValueError, match="no row was counted yet"):
        Prequential("error").correct(1.0, 2.0, 3.0)


@pytest.mark.parametrize("kind", ["accuracy", "error"])
@pytest.mark.parametrize("at", [0, 1, 99, 700])
def test_a_state_goes_on_exactly_through_a_file(kind, at, tmp_path):
    rows = (weather if kind == "accuracy" else numbers)(1500)
    if kind == "accuracy":
        rows = [(None if i % 7 == 0 else a, b) for i, (a, b) in enumerate(rows)]
    settings = {"window": 100, "fading": 0.99, "every": 1}
    whole, part = counted(rows, kind, **settings), counted(rows[:at], kind, **settings)
    checkpoint.save(part.state_dict(), tmp_path / "score")
    again = Prequential(kind, **settings)
    again.load_state_dict(checkpoint.load(tmp_path / "score"))
    assert again.reading() == part.reading()
    for row in rows[at:]:
        again.update(*row)
    assert again.reading() == whole.reading()
    assert again.snapshots == whole.snapshots
    assert list(again.reading()) == list(whole.reading())


def test_a_state_of_other_settings_is_refused():
    state = counted(weather(5)).state_dict()
    with pytest.raises(ValueError, match="go on with the settings that it began with"):
        Prequential(window=7).load_state_dict(state)


def test_snapshots_stay_few_evenly_spaced_and_true():
    rows = weather(7321)
    score = counted(rows, every=1, window=40)
    assert KEPT / 2 <= len(score.snapshots) <= KEPT
    places = [moment["rows"] for moment in score.snapshots]
    assert {b - a for a, b in itertools.pairwise(places)} == {score.stride}
    for moment in score.snapshots[:: len(places) // 5]:
        then = counted(rows[: moment["rows"]], window=40).reading()
        assert all(then[name] == value for name, value in moment.items())
    assert score.curve("windowed")[-1] == (7321, score.reading()["windowed"])


def test_memory_does_not_grow_with_the_stream():
    score, sizes = Prequential(window=20), []
    for _ in range(2):
        for row in weather(3000):
            score.update(*row)
        state = score.state_dict()["tally"]
        sizes.append((state["recent"].shape, state["pairs"].shape, len(score.tally.last.pairs) <= 9))
    assert sizes[0] == sizes[1]


def test_what_has_no_value_is_not_there():
    only = counted([("sun", "sun")] * 30).reading()
    assert not {"kappa", "windowed_kappa"} & set(only)
    assert only["kappa_m"] == only["kappa_t"] == 1.0  # for the first row, the baselines had no answer
    assert "r2" not in counted([(1.0, 2.0)], "error").reading()
    assert Prequential().reading() == {"rows": 0}


def test_no_answer_is_never_right_and_a_class_that_was_never_answered_has_recall_0():
    reading = counted([(None, "sun"), ("sun", "sun"), ("sun", "rain")]).reading()
    assert reading["accuracy"] == pytest.approx(1 / 3)
    assert reading["recall[rain]"] == reading["worst_recall"] == 0


def test_what_cannot_be_counted_is_refused_and_nothing_is_counted():
    score = counted(weather(5))
    before = score.reading()
    for row in ((math.nan, "sun"), ("sun", math.nan), ("sun", None)):
        with pytest.raises(ValueError, match=r"no class|true class is None"):
            score.update(*row)
    assert score.reading() == before
    error = counted(numbers(5), "error")
    before = error.reading()
    for row in ((math.inf, 1.0), (1.0, "rain"), (None, 1.0), (1e200, 1.0), (1.0, -1e150)):
        with pytest.raises(ValueError, match="expected a finite number"):
            error.update(*row)
    assert error.reading() == before


def test_settings_that_mean_nothing_are_refused():
    for settings in ({"window": 0}, {"every": 0}, {"fading": 0.0}, {"fading": 1.1}, {"kind": "auc"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Prequential(**settings)


def test_wilson_solves_its_equation():
    for right, rows in ((0, 5), (3, 10), (500, 1000), (7, 7)):
        for end in wilson(right, rows):
            if 0 < end < 1:
                z = abs(right / rows - end) / math.sqrt(end * (1 - end) / rows)
                assert z == pytest.approx(1.959964, abs=1e-5)


def covered(stay, runs=400, rows=1024):
    """How often the intervals hold the true accuracy, 0.7; the chance of being right stays as it is for a while."""
    generator = np.random.default_rng(1)
    hits = np.zeros(2)
    for _ in range(runs):
        fresh = generator.random(rows) < 0.7
        new = generator.random(rows) >= stay
        new[0] = True
        right = fresh[np.maximum.accumulate(np.where(new, np.arange(rows), 0))]
        blocks = Blocks()
        for value in right.tolist():
            blocks.add(value)
        low, high = wilson(right.sum(), rows)
        hits += (low <= 0.7 <= high, abs(right.mean() - 0.7) <= blocks.half())
    return hits / runs


def test_where_errors_come_in_bursts_the_interval_by_blocks_holds_and_that_of_wilson_does_not():
    assert min(covered(stay=0.0)) > 0.92
    by_rows, by_blocks = covered(stay=0.8)
    assert by_rows < 0.6
    assert by_blocks > 0.88


def test_blocks_are_the_means_of_consecutive_rows():
    values = np.random.default_rng(0).random(5000)
    blocks = Blocks()
    for value in values.tolist():
        blocks.add(value)
    full = len(blocks.sums) * blocks.size
    assert blocks.sums == pytest.approx(values[:full].reshape(-1, blocks.size).sum(1).tolist())
    assert 32 <= len(blocks.sums) < 64
    few = Blocks()
    for value in range(511):
        few.add(value)
    assert few.half() is None


def test_every_reading_has_a_definition_and_none_has_the_name_of_another():
    for kind, rows in (("accuracy", weather(600)), ("error", numbers(600))):
        for name in counted(rows, kind).reading():
            assert definition(name).definition
            assert definition(name).source
    assert definition("mae_block_high").name == "mean absolute error, upper end by blocks"
    assert definition("fading_no_change_rmse").name == "root mean squared error of no-change, fading"
    assert not set(DEFINITIONS) & set(READINGS)
    with pytest.raises(ValueError, match="there is no reading 'auc'"):
        definition("auc")


def test_the_driver_answers_each_batch_before_it_learns_it():
    told = []

    def predict(batch):
        told.append(("predict", batch["x"].tolist()))
        return torch.nn.functional.one_hot(batch["x"], 3).float()

    stream = [
        {"x": torch.tensor([0, 1]), "y": torch.tensor([0, 2])},
        {"x": torch.tensor([2]), "y": torch.tensor([UNLABELED])},
    ]
    score = prequential(predict, lambda batch: told.append(("learn", batch["x"].tolist())), stream)
    assert told == [("predict", [0, 1]), ("learn", [0, 1]), ("predict", [2]), ("learn", [2])]
    assert score.reading()["accuracy"] == 0.5
    assert score.rows == 2
    with pytest.raises(ValueError, match="answers NaN"):
        prequential(lambda batch: torch.full((2, 3), math.nan), print, stream)


def test_the_driver_counts_numbers():
    stream = [{"x": torch.tensor([[1.0], [2.0]]), "y": torch.tensor([1.0, 4.0])}]
    score = prequential(lambda batch: batch["x"], lambda _: None, stream, Prequential("error"))
    assert score.reading()["mae"] == 1.0


def river_stream(name):
    datasets = pytest.importorskip("river.datasets")
    return list(getattr(datasets, name)())


@pytest.mark.parametrize("name", ["Phishing", "Bananas"])
def test_classification_equals_river_on_its_data(name):
    rows = river_stream(name)
    from river import dummy, linear_model, metrics, preprocessing, utils

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    theirs = {
        "accuracy": metrics.Accuracy(),
        "kappa": metrics.CohenKappa(),
        "windowed": utils.Rolling(metrics.Accuracy, window_size=200),
        "windowed_kappa": utils.Rolling(metrics.CohenKappa, window_size=200),
        "recall[True]": metrics.Recall(),
    }
    simple, last, ours = dummy.NoChangeClassifier(), metrics.Accuracy(), Prequential(window=200)
    for x, y in rows:
        given = model.predict_one(x)
        for metric in theirs.values():
            metric.update(y, given)
        last.update(y, simple.predict_one(x))
        ours.update(given, y)
        simple.learn_one(x, y)
        model.learn_one(x, y)
    reading = ours.reading()
    for reading_id, metric in theirs.items():
        assert reading[reading_id] == pytest.approx(metric.get(), abs=1e-12), reading_id
    assert reading["no_change"] == pytest.approx(last.get(), abs=1e-12)
    assert reading["no_change"] == pytest.approx(sum(a[1] == b[1] for a, b in itertools.pairwise(rows)) / len(rows))


def test_regression_equals_river_on_its_data():
    rows = river_stream("TrumpApproval")
    from river import linear_model, metrics, preprocessing, utils

    model = preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1)
    theirs = {
        "mae": metrics.MAE(),
        "rmse": metrics.RMSE(),
        "r2": metrics.R2(),
        "windowed_mae": utils.Rolling(metrics.MAE, window_size=200),
        "windowed_rmse": utils.Rolling(metrics.RMSE, window_size=200),
    }
    ours = Prequential("error", window=200)
    for x, y in rows:
        given = model.predict_one(x)
        for metric in theirs.values():
            metric.update(y, given)
        ours.update(given, y)
        model.learn_one(x, y)
    for reading_id, metric in theirs.items():
        assert ours.reading()[reading_id] == pytest.approx(metric.get(), rel=1e-9), reading_id
