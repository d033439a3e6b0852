"""The tolerance is three standard errors of the difference of two means, and slack; the interval is Student's."""

import math

import numpy as np
import pytest

from everlearn.bench.statistics import Published, Sample, agrees, student95, tolerance


def test_mean_deviation_and_interval_by_hand():
    sample = Sample.of([1, 2, 3, 6])
    assert (sample.n, sample.mean) == (4, 3)
    assert sample.sd == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    assert sample.ci95 == pytest.approx(3.182446 * sample.sd / 2)
    assert str(sample) == "3.00 ± 2.16"


def test_one_value_has_no_spread_and_none_is_no_sample():
    sample = Sample.of([5])
    assert (sample.mean, sample.sd, sample.ci95, str(sample)) == (5, None, None, "5.00")
    with pytest.raises(ValueError, match="at least one value"):
        Sample.of([])


def test_the_tolerance_is_three_standard_errors_and_slack():
    ours, theirs = Sample.of([10, 12, 14]), Published(20, 3, 9, slack=0.5)
    assert tolerance(ours, theirs) == pytest.approx(3 * math.sqrt(4 / 3 + 9 / 9) + 0.5)
    assert not agrees(ours, theirs)
    assert agrees(Sample.of([10, 12, 14]), Published(12 + 5.0, 3, 9, slack=0.5))


def test_with_one_seed_our_spread_is_taken_to_be_theirs():
    assert tolerance(Sample.of([1]), Published(0, 2, 4, slack=0)) == pytest.approx(3 * math.sqrt(4 + 1))


def test_a_count_is_right_or_wrong():
    theirs = Published(1109, 0, 1, slack=0)
    assert agrees(Sample.of([1109]), theirs)
    assert not agrees(Sample.of([1110]), theirs)
    assert not agrees(Sample.of([1108]), theirs)


def test_agreement_is_missed_about_as_rarely_as_three_standard_errors_say():
    """Both means of one distribution: 3 standard errors leave out some 0.3 % of large samples, more of small ones."""
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        ours, theirs = random.normal(0, 1, 20), random.normal(0, 1, 20)
        missed += not agrees(Sample.of(ours), Published(theirs.mean(), theirs.std(ddof=1), 20, slack=0))
    assert 0 < missed < 20


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [
        (1, 12.7062047),
        (2, 4.3026527),
        (3, 3.1824463),
        (4, 2.7764451),
        (9, 2.2621572),
        (10, 2.2281389),
        (120, 1.9799304),
    ],
)
def test_the_quantiles_of_student(freedom, expected):
    assert student95(freedom) == pytest.approx(expected, abs=1e-6)


def test_student_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="at least one degree of freedom, not 0"):
        student95(0)
