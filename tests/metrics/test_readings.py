# ruff: noqa: N803, N806 (R is what the field calls the matrix)

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from everlearn.metrics import (
    READINGS,
    NotMeasuredError,
    Scores,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    backward_transfer_mean,
    forgetting,
    forward_transfer,
    forward_transfer_mean,
    intransigence,
    learning_accuracy,
    read,
)

NAN = math.nan

# Worked out by hand. The second experience is best after the third, the third is improved by the fourth.
FOUR = torch.tensor(
    [
        [0.80, 0.10, 0.05, 0.15],
        [0.90, 0.70, 0.20, 0.10],
        [0.70, 0.80, 0.60, 0.30],
        [0.60, 0.50, 0.65, 0.90],
    ],
    dtype=torch.float64,
)
LOWER = FOUR.masked_fill(torch.ones(4, 4).triu(1).bool(), NAN)
BASELINE = [0.10, 0.05, 0.10, 0.20]
COUNTS = [10, 20, 30, 40]

THREE = [[1.0, NAN, NAN], [0.5, 0.8, NAN], [0.25, 0.6, 1.0]]


def exactly(value):
    return pytest.approx(value, abs=1e-12)


def test_average_accuracy_is_the_mean_of_the_last_row():
    assert average_accuracy(LOWER) == exactly((0.60 + 0.50 + 0.65 + 0.90) / 4)
    assert average_accuracy(THREE) == exactly(1.85 / 3)


def test_average_accuracy_at_an_earlier_stage_is_the_mean_over_the_experiences_seen_by_then():
    assert average_accuracy(FOUR, row=1) == exactly((0.90 + 0.70) / 2)
    assert average_accuracy(FOUR, row=0) == exactly(0.80)


def test_the_pooled_accuracy_weighs_experiences_by_their_rows():
    assert average_accuracy(LOWER, COUNTS, pooled=True) == exactly((6 + 10 + 19.5 + 36) / 100)
    assert average_accuracy(LOWER, torch.tensor([COUNTS] * 4), pooled=True) == exactly(0.715)


def test_pooled_and_unpooled_agree_where_experiences_have_equal_sizes():
    assert average_accuracy(LOWER, [7] * 4, pooled=True) == exactly(average_accuracy(LOWER))


def test_a_pooled_accuracy_without_counts_is_an_error():
    with pytest.raises(ValueError, match="needs counts"):
        average_accuracy(LOWER, pooled=True)
    with pytest.raises(ValueError, match="positive counts"):
        average_accuracy(LOWER, [1, 0, 1, 1], pooled=True)


def test_average_incremental_accuracy_is_the_mean_over_stages_with_or_without_the_first():
    stages = [0.80, 0.80, 0.70, 0.6625]
    assert average_incremental_accuracy(LOWER) == exactly(sum(stages) / 4)
    assert average_incremental_accuracy(LOWER, include_first=False) == exactly(sum(stages[1:]) / 3)
    pooled = [0.8, 23 / 30, 41 / 60, 0.715]
    assert average_incremental_accuracy(LOWER, COUNTS, pooled=True) == exactly(sum(pooled) / 4)


def test_learning_accuracy_is_the_mean_of_the_diagonal():
    assert learning_accuracy(LOWER) == exactly((0.8 + 0.7 + 0.6 + 0.9) / 4)


def test_forgetting_by_chaudhry_takes_the_best_row_before_the_last_and_leaves_out_the_last_experience():
    assert forgetting(LOWER) == exactly(((0.9 - 0.6) + (0.8 - 0.5) + (0.6 - 0.65)) / 3)
    assert forgetting(THREE) == exactly(((1.0 - 0.25) + (0.8 - 0.6)) / 2)


def test_forgetting_from_the_first_value_is_minus_the_backward_transfer():
    assert forgetting(LOWER, reference="first") == exactly(((0.8 - 0.6) + (0.7 - 0.5) + (0.6 - 0.65)) / 3)
    assert forgetting(LOWER, reference="first") == exactly(-backward_transfer(LOWER))


def test_forgetting_with_the_last_row_in_the_maximum_is_never_negative():
    assert forgetting(LOWER, include_last_row=True) == exactly((0.3 + 0.3 + 0.0) / 3)
    better = [[0.5, NAN], [0.9, 0.9]]
    assert forgetting(better) == exactly(-0.4)
    assert forgetting(better, include_last_row=True) == 0.0


def test_forgetting_over_all_experiences_divides_by_their_number():
    over_all = forgetting(LOWER, include_last_row=True, include_last_experience=True)
    assert over_all == exactly((0.3 + 0.3 + 0.0 + 0.0) / 4)
    assert forgetting(LOWER, include_last_experience=True) == exactly((0.3 + 0.3 - 0.05 + 0.0) / 4)


def test_the_four_forgettings_of_one_matrix_are_four_numbers():
    values, _ = read(Scores.of(LOWER, COUNTS))
    named = [values[name] for name in READINGS if name.startswith("forgetting")]
    assert len(named) == 4
    assert len({round(value, 6) for value in named}) == 4


def test_what_was_measured_before_an_experience_was_learned_is_not_what_was_forgotten():
    zero_shot = FOUR.clone()
    zero_shot[0, 1] = 1.0
    assert forgetting(zero_shot) == forgetting(LOWER)


def test_a_model_that_stays_as_it_is_forgets_exactly_nothing():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 900, (120,), generator=generator)
    correct = (torch.rand(120, generator=generator, dtype=torch.float64) * counts).floor()
    R = (correct / counts).expand(120, 120).tril().masked_fill(torch.ones(120, 120).triu(1).bool(), NAN)
    values, _ = read(Scores.of(R, counts.tolist()))
    for name in READINGS:
        if name.startswith(("forgetting", "backward", "windowed")):
            assert values[name] == 0.0, name
    assert values["average_accuracy_pooled"] == exactly(float(correct.sum() / counts.sum()))
    assert values["average_accuracy"] == exactly(values["learning_accuracy"])


def test_the_order_of_more_than_a_hundred_experiences_is_that_of_numbers_not_of_strings():
    T = 112
    # each experience is lost completely when the next one comes
    R = torch.eye(T, dtype=torch.float64).masked_fill(torch.ones(T, T).triu(1).bool(), NAN)
    values, _ = read(Scores.of(R, [10 + j % 7 for j in range(T)]))
    assert values["forgetting"] == 1.0
    assert values["average_accuracy"] == exactly(1 / T)
    assert values["average_accuracy_pooled"] == exactly((10 + 111 % 7) / sum(10 + j % 7 for j in range(T)))


def test_backward_transfer_reads_the_last_row_and_its_mean_reads_all_stages():
    assert backward_transfer(LOWER) == exactly((-0.2 - 0.2 + 0.05) / 3)
    assert backward_transfer_mean(LOWER) == exactly((0.1 - 0.1 - 0.2 + 0.1 - 0.2 + 0.05) / 6)


def test_forward_transfer_takes_off_the_baseline_and_its_mean_does_not():
    assert forward_transfer(FOUR, BASELINE) == exactly((0.05 + 0.1 + 0.1) / 3)
    assert forward_transfer_mean(FOUR) == exactly((0.1 + 0.2 + 0.3 + 0.05 + 0.15 + 0.1) / 6)


def test_forward_transfer_without_a_baseline_is_an_error():
    with pytest.raises(NotMeasuredError, match="baseline"):
        forward_transfer(FOUR, None)
    with pytest.raises(NotMeasuredError, match=r"baseline of experiences \[2\]"):
        forward_transfer(FOUR, [NAN, 0.1, NAN, 0.1])
    with pytest.raises(ValueError, match="4 experiences"):
        forward_transfer(FOUR, [0.1])


def test_intransigence_is_what_joint_training_would_have_known_more():
    assert intransigence(FOUR, [0.9, 0.9, 0.9, 0.95]) == exactly(0.05)
    assert intransigence(FOUR, [0.9, 0.9, 0.9, 0.95], row=2) == exactly(0.3)
    with pytest.raises(NotMeasuredError, match="joint reference of experience 3"):
        intransigence(FOUR, [0.9, 0.9, 0.9, NAN])


@pytest.mark.parametrize("reading", [forward_transfer_mean, lambda R: forward_transfer(R, BASELINE)])
def test_a_triangle_says_nothing_about_the_future(reading):
    with pytest.raises(NotMeasuredError, match=r"R\[0, 1\], the accuracy on experience 1 after experience 0"):
        reading(LOWER)


@pytest.mark.parametrize(
    "reading",
    [
        average_accuracy,
        average_incremental_accuracy,
        forgetting,
        backward_transfer,
        backward_transfer_mean,
        lambda R: forgetting(R, reference="first"),
    ],
)
def test_what_was_not_measured_is_never_taken_for_zero(reading):
    R = LOWER.clone()
    R[3, 1] = NAN
    with pytest.raises(NotMeasuredError, match=r"R\[3, 1\].*not measured"):
        reading(R)


def test_an_entry_that_a_reading_does_not_need_may_be_missing():
    R = LOWER.clone()
    R[2, 1] = NAN
    assert backward_transfer(R) == backward_transfer(LOWER)
    assert average_accuracy(R) == average_accuracy(LOWER)
    with pytest.raises(NotMeasuredError):
        forgetting(R)


@pytest.mark.parametrize("reading", [forgetting, backward_transfer, backward_transfer_mean, forward_transfer_mean])
def test_a_difference_in_time_needs_two_experiences(reading):
    with pytest.raises(NotMeasuredError, match="two experiences"):
        reading([[0.9]])


def test_bad_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        average_accuracy(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="'best'"):
        forgetting(FOUR, reference="best")
    with pytest.raises(ValueError, match="include_last_row"):
        forgetting(FOUR, reference="first", include_last_row=True)


def test_arrays_tensors_and_lists_read_alike():
    assert forgetting(FOUR.numpy()) == forgetting(FOUR) == forgetting(FOUR.tolist())
    assert forgetting(FOUR.float()) == pytest.approx(forgetting(FOUR), abs=1e-6)


def test_readings_leave_the_matrix_as_it_was():
    before = LOWER.clone()
    read(Scores.of(LOWER, 10))
    forgetting(LOWER)
    assert torch.equal(before.nan_to_num(-1), LOWER.nan_to_num(-1))


def test_each_reading_has_a_definition_an_equation_and_a_source_and_is_read_or_explained():
    values, missing = read(Scores.of(LOWER, COUNTS))
    assert set(values) | set(missing) == set(READINGS)
    assert not set(values) & set(missing)
    assert set(missing) == {"forward_transfer", "forward_transfer_mean", "intransigence"}
    for reading in READINGS.values():
        assert reading.name
        assert reading.definition.endswith(".")
        assert reading.equation
        assert reading.source


def test_for_errors_forgetting_is_the_rise_of_the_error_and_levels_are_errors():
    values, _ = read(Scores.of([[0.1, NAN], [0.4, 0.2]], 10, kind="error"))
    assert values["average_accuracy"] == exactly(0.3)
    assert values["forgetting"] == exactly(0.3)
    assert values["backward_transfer"] == exactly(-0.3)
    assert values["minimum_accuracy"] == exactly(0.4)  # the worst is the largest


def test_scores_without_any_final_measurement_have_no_readings():
    values, missing = read(Scores())
    assert values == {}
    assert set(missing) == set(READINGS)


def test_the_published_run_of_experience_replay_is_read_as_it_was_published():
    if "EVERLEARN_DATA" not in os.environ:
        pytest.skip("EVERLEARN_DATA does not name the folder of published results")
    path = Path(os.environ["EVERLEARN_DATA"]) / "golden" / "er_split_cifar100_20.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    values, _ = read(Scores.of(torch.from_numpy(np.genfromtxt(path, delimiter=",")), 500))
    published = {
        "average_accuracy": 28.95,
        "average_accuracy_pooled": 28.95,
        "learning_accuracy": 67.43,
        "backward_transfer": -40.51,
        "forgetting": 40.57,
        "average_anytime_accuracy": 40.75,
        "average_incremental_accuracy": 40.75,
        "minimum_accuracy": 21.64,
        "worst_case_accuracy": 24.38,
    }
    for name, value in published.items():
        assert 100 * values[name] == pytest.approx(value, abs=0.005 + 1e-9), name
