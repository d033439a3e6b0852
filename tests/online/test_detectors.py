"""Detectors: one convention for all, and a state that goes on bit for bit."""

import random

import pytest
import torch

from everlearn import checkpoint
from everlearn.online import detectors as module
from everlearn.online.detectors import KINDS, Bounded, detector, detectors

river = pytest.importorskip("river.drift", reason="detectors of drift are those of river")
SIDED = [name for name, kind in KINDS.items() if kind.side]
every = pytest.mark.parametrize("name", KINDS)


def errors(seed, *parts):
    """Bits: for each (rows, chance of an error) so many."""
    draw = random.Random(seed)
    return [float(draw.random() < chance) for rows, chance in parts for _ in range(rows)]


def alarms(watcher, stream):
    return [place for place, error in enumerate(stream) if watcher.update(error)]


@every
def test_a_rise_is_noticed_and_a_fall_is_not(name):
    rows = 400 if name == "kswin" else 2000
    rise, fall = errors(0, (rows, 0.05), (rows, 0.6)), errors(0, (rows, 0.6), (rows, 0.05))
    assert any(rows <= place < rows + 300 for place in alarms(detector(name), rise))
    assert not [place for place in alarms(detector(name), fall) if rows <= place < rows + 300]


@pytest.mark.parametrize("name", SIDED)
def test_with_both_sides_a_fall_is_noticed_too(name):
    rows = 400 if name == "kswin" else 1000
    assert alarms(detector(f"{name}:side=both"), errors(0, (rows, 0.6), (rows, 0.05)))


@pytest.mark.parametrize(
    ("text", "made", "seen"),
    [
        ("adwin:delta=0.01,side=both", lambda: river.ADWIN(delta=0.01), float),
        ("page-hinkley", lambda: river.PageHinkley(mode="up"), float),
        ("page-hinkley:side=both,threshold=20", lambda: river.PageHinkley(threshold=20), float),
        ("hddm-w", river.binary.HDDMW, bool),
        ("hddm-a:side=both", lambda: river.binary.HDDMA(two_sided_test=True), bool),
        ("ddm", river.binary.DDM, bool),
        ("eddm", river.binary.EDDM, bool),
        ("fhddm", river.binary.FHDDM, lambda error: not error),
        ("kswin:side=both,seed=3", lambda: river.KSWIN(seed=3), float),
    ],
)
def test_they_are_those_of_river(text, made, seen):
    rows = 300 if "kswin" in text else 1500
    stream, theirs, expected = errors(1, (rows, 0.1), (rows, 0.5), (rows, 0.2)), made(), []
    for place, error in enumerate(stream):
        theirs.update(seen(error))
        expected += [place] if theirs.drift_detected else []
    assert alarms(detector(text), stream) == expected
    assert expected


def test_of_a_window_only_what_rose_counts():
    stream = errors(2, (1000, 0.6), (1000, 0.1), (1000, 0.6))
    both, up = alarms(detector("adwin:side=both"), stream), alarms(detector("adwin"), stream)
    assert set(up) < set(both)
    assert [place // 1000 for place in both] == [1, 2]
    assert [place // 1000 for place in up] == [2]


@every
@pytest.mark.parametrize("seed", range(3))
def test_a_saved_one_goes_on_bit_for_bit_wherever_the_stream_is_split(name, seed, tmp_path):
    rows = 90 if name == "kswin" else 700
    stream = errors(seed, (rows, 0.1), (rows, 0.5), (rows, 0.05), (rows, 0.4))
    whole = detector(name)
    expected = alarms(whole, stream)
    places = [*random.Random(seed).sample(range(len(stream)), 3), *(place + 1 for place in expected[:2]), 0]
    for place in places:  # also where it has just spoken, and before it has seen anything
        first, second = detector(name), detector(name)
        before = alarms(first, stream[:place])
        checkpoint.save(first.state_dict(), tmp_path / "state")
        alarms(second, stream[: place // 2])  # whatever it was before
        second.load_state_dict(checkpoint.load(tmp_path / "state"))
        assert checkpoint.same(second.state_dict(), first.state_dict())
        assert before + [place + later for later in alarms(second, stream[place:])] == expected
        assert checkpoint.same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.bits])
def test_errors_between_right_and_wrong_are_taken_and_go_on_bit_for_bit(name):
    rows, draw = (60 if name == "kswin" else 500), random.Random(4)
    stream = [draw.random() * 0.3 for _ in range(2 * rows)] + [0.5 + draw.random() * 0.5 for _ in range(2 * rows)]
    whole, first, second = detector(name), detector(name), detector(name)
    expected = alarms(whole, stream)
    assert any(place >= 2 * rows for place in expected)
    alarms(first, stream[:rows])
    second.load_state_dict(first.state_dict())
    alarms(second, stream[rows:])
    assert checkpoint.same(second.state_dict(), whole.state_dict())


@every
def test_a_state_is_of_one_moment(name):
    watcher, stream = detector(name), errors(5, (150, 0.2))
    alarms(watcher, stream)
    state = watcher.state_dict()
    kept = checkpoint.same(state, watcher.state_dict())
    alarms(watcher, stream)
    assert kept
    assert not checkpoint.same(state, watcher.state_dict())


@every
@pytest.mark.parametrize("error", [float("nan"), -0.1, 1.5, float("inf")])
def test_what_is_no_error_is_refused_and_changes_nothing(name, error):
    watcher = detector(name)
    before = watcher.state_dict()
    with pytest.raises(ValueError, match="an error lies between 0"):
        watcher.update(error)
    assert checkpoint.same(before, watcher.state_dict())


def test_half_an_error_is_none_for_one_that_counts():
    with pytest.raises(ValueError, match="eddm counts errors"):
        detector("eddm").update(0.5)


def test_a_seed_decides_what_is_drawn():
    stream = errors(6, (120, 0.3))
    states = []
    for text in ("kswin", "kswin:seed=0", "kswin:seed=1"):
        watcher = detector(text)
        alarms(watcher, stream)
        states.append(watcher.state_dict()["inside"]["_rng"])
    assert checkpoint.same(states[0], states[1])
    assert not checkpoint.same(states[0], states[2])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("adwine", "did you mean 'adwin'"),
        ("adwin:dleta=1", "did you mean 'delta'"),
        ("adwin:delta=2", "from 1e-12 to 1, but is 2"),
        ("adwin:clock=1.5", "a whole number"),
        ("adwin:delta=true", "a number"),
        ("adwin:side=down", "up or both"),
        ("ddm:side=both", "cannot look for less error"),
        ("eddm:alpha=0.5,beta=0.9", "greater or equal"),
        ("kswin:window_size=10", "smaller than window_size"),
        ("adwin+adwin", "twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text, why):
    with pytest.raises(ValueError, match=why):
        detectors(text)


def test_the_state_of_another_one_is_refused():
    with pytest.raises(ValueError, match="a detector with detector 'adwin'"):
        detector("ddm").load_state_dict(detector("adwin").state_dict())
    with pytest.raises(ValueError, match=r"with river '0\.1'"):
        detector("ddm").load_state_dict(detector("ddm").state_dict() | {"river": "0.1"})


def test_what_nobody_knows_how_to_save_is_named():
    watcher = detector("ddm")
    watcher._made.strange = object()
    with pytest.raises(TypeError, match=r"keeps a builtins\.object"):
        watcher.state_dict()


def test_no_state_names_a_class():
    for name in KINDS:
        state = module._read(detector(name)._made)
        assert all(
            isinstance(value, str | int | float | bool | list | dict | torch.Tensor | None) for value in state.values()
        )
        assert not [value for value in state.values() if isinstance(value, str) and "river" in value]


def test_how_far_a_number_is_off_is_measured_by_what_was_usual():
    draw, bounded, usual, mean = random.Random(0), Bounded(), [], 0.0
    for place in range(400):
        off = draw.expovariate(1.0) * (1 if place < 300 else 5)
        error = bounded.update(10.0, 10.0 + off)
        off = abs(10.0 + off - 10.0)
        assert error == pytest.approx(off / (off + (mean if place else off)))
        usual.append(error)
        mean += (off - mean) / (place + 1)
    assert sum(usual[50:300]) / 250 < 0.5 < sum(usual[300:]) / 100
    assert detector("adwin").update(usual[-1]) is False


def test_a_number_that_is_always_right_has_no_error():
    bounded = Bounded()
    assert [bounded.update(1.0, 1.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bounded.update(1.0, 2.0) == 1.0
    with pytest.raises(ValueError, match="finite"):
        bounded.update(1.0, float("nan"))
    assert bounded.update("rain", "rain") == 0.0
    assert bounded.update("rain", "sun") == bounded.update("", "sun") == 1.0
    assert Bounded().update(-8e307, 8e307) == 0.5  # though the sum of two such is infinite
    other = Bounded()
    other.load_state_dict(bounded.state_dict())
    assert other.update(3.0, 5.0) == bounded.update(3.0, 5.0)
