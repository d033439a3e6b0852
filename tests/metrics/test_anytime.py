# ruff: noqa: N806 (R is what the field calls the matrix)

import math

import pytest
import torch

from everlearn.metrics import (
    NotMeasuredError,
    Result,
    Scores,
    average_anytime_accuracy,
    average_incremental_accuracy,
    minimum_accuracy,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)


def exactly(value):
    return pytest.approx(value, abs=1e-12)


def gap():
    """Two experiences: the first falls to 0.2 while the second is learned, and recovers."""
    scores = Scores()
    for step, value in ((10, 0.5), (20, 0.9)):
        scores.add(Result(value * 10, 10), after=0, on=0, step=step, final=step == 20)
    for step, old, new in ((30, 0.2, 0.3), (40, 0.6, 0.7), (50, 0.8, 0.8)):
        scores.add(Result(old * 10, 10), after=1, on=0, step=step, final=step == 50)
        scores.add(Result(new * 10, 10), after=1, on=1, step=step, final=step == 50)
    return scores


def test_the_average_anytime_accuracy_weighs_each_evaluation_alike():
    expected = (0.5 + 0.9 + (0.2 + 0.3) / 2 + (0.6 + 0.7) / 2 + 0.8) / 5
    assert average_anytime_accuracy(gap().anytime()) == exactly(expected)


def test_the_minimum_accuracy_sees_the_gap_that_the_matrix_hides():
    assert minimum_accuracy(gap().anytime()) == exactly(0.2)
    assert worst_case_accuracy(gap().anytime()) == exactly((0.8 + 0.2) / 2)


def test_the_minimum_is_taken_after_the_end_of_an_experience_and_not_while_it_is_learned():
    scores = gap()
    scores.add(Result(0.0, 10), after=0, on=0, step=5, final=False)
    assert minimum_accuracy(scores.anytime()) == exactly(0.2)


def test_windowed_forgetting_is_the_largest_fall_and_plasticity_the_largest_rise_within_the_window():
    moments = gap().anytime()
    # experience 0: 0.5 0.9 0.2 0.6 0.8; experience 1: 0.3 0.7 0.8
    assert windowed_forgetting(moments, window=2) == exactly((0.7 + 0.0) / 2)
    assert windowed_plasticity(moments, window=2) == exactly((0.4 + 0.4) / 2)
    assert windowed_plasticity(moments, window=3) == exactly((0.6 + 0.5) / 2)
    assert windowed_plasticity(moments, window=100) == exactly((0.6 + 0.5) / 2)


def test_a_slow_fall_shows_only_in_a_window_that_is_wide_enough():
    scores = Scores()
    for step, value in enumerate((0.9, 0.8, 0.7, 0.6)):
        scores.add(Result(value * 10, 10), after=0, on=0, step=step, final=step == 3)
    assert windowed_forgetting(scores.anytime(), window=2) == exactly(0.1)
    assert windowed_forgetting(scores.anytime(), window=3) == exactly(0.2)
    assert windowed_forgetting(scores.anytime(), window=4) == exactly(0.3)
    assert windowed_plasticity(scores.anytime()) == 0.0


def test_a_window_of_one_evaluation_is_an_error():
    with pytest.raises(ValueError, match="at least 2"):
        windowed_forgetting(gap().anytime(), window=1)


def test_with_one_evaluation_for_each_experience_anytime_is_incremental():
    R = torch.tensor([[0.9, math.nan, math.nan], [0.4, 0.8, math.nan], [0.5, 0.3, 0.7]], dtype=torch.float64)
    moments = Scores.of(R, 100).anytime()
    assert average_anytime_accuracy(moments) == exactly(average_incremental_accuracy(R))
    assert minimum_accuracy(moments) == exactly((0.4 + 0.3) / 2)
    assert worst_case_accuracy(moments) == exactly(0.7 / 3 + 2 / 3 * 0.35)


def test_the_worst_case_of_one_experience_is_its_accuracy_and_its_minimum_is_not_defined():
    moments = Scores.of([[0.9]], 100).anytime()
    assert worst_case_accuracy(moments) == exactly(0.9)
    with pytest.raises(NotMeasuredError, match="two experiences"):
        minimum_accuracy(moments)


@pytest.mark.parametrize(
    "reading",
    [
        average_anytime_accuracy,
        minimum_accuracy,
        worst_case_accuracy,
        windowed_forgetting,
        windowed_plasticity,
    ],
)
def test_an_evaluation_that_leaves_out_an_experience_seen_before_is_an_error(reading):
    scores = gap()
    scores.add(Result(9, 10), after=1, on=1, step=45, final=False)
    with pytest.raises(NotMeasuredError, match="experience 0 at step 45 of experience 1"):
        reading(scores.anytime())
    with pytest.raises(NotMeasuredError, match="there are none"):
        reading(Scores().anytime())
