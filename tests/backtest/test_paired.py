import numpy as np
import pytest

from everlearn.backtest.paired import block_length, difference


def autoregressive(rho, count, seed):
    generator = np.random.default_rng(seed)
    series = np.zeros(count)
    for i, e in enumerate(generator.normal(size=count)):
        series[i] = rho * series[i - 1] + e if i else e
    return series


@pytest.mark.parametrize(
    ("rho", "count", "theirs"),
    [
        *((0.0, 500, 0.900762860952683), (0.0, 5000, 3.203199070222991)),
        *((0.5, 500, 8.971395416804558), (0.5, 5000, 24.357316241522273)),
        *((0.9, 500, 32.42927032210134), (0.9, 5000, 88.99310139010605)),
        *((0.97, 500, 41.372237345476584), (0.97, 5000, 138.5066604704119)),
    ],
)
def test_the_length_of_a_block_is_that_of_the_library_arch(rho, count, theirs):
    """Its optimal_block_length for the circular bootstrap, version 7, on the same series."""
    generator = np.random.default_rng(int(rho * 100) + count)
    noise, series = generator.normal(size=count), np.zeros(count)
    for i in range(1, count):
        series[i] = rho * series[i - 1] + noise[i]
    assert abs(block_length(series) - theirs) < 2


def test_the_interval_is_as_wide_as_the_mean_really_varies():
    """For an autoregressive series the standard error of the mean is known: 1 / (1 - rho) / sqrt(n)."""
    series = autoregressive(0.8, 20_000, 5)
    found = difference(series, np.zeros(20_000))
    width = (found.high - found.low) / 2 / 1.96
    assert width == pytest.approx(1 / (1 - 0.8) / np.sqrt(20_000), rel=0.2)


def test_independent_rows_would_make_it_far_too_narrow():
    series = autoregressive(0.8, 20_000, 5)
    naive = 1.96 * series.std() / np.sqrt(len(series))
    found = difference(series, np.zeros(20_000))
    assert (found.high - found.low) / 2 > 2 * naive


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(100):
        found = difference(autoregressive(0.5, 600, seed), np.zeros(600), seed=seed)
        held += found.low <= 0 <= found.high
    assert 87 <= held <= 99


def test_intervals_of_few_blocks_hold_the_truth_about_as_often_as_they_say():
    """Errors of hours that are alike for a day or two, over a fortnight: a plain bootstrap holds it in 83 of 100."""
    held = 0
    for seed in range(100):
        found = difference(autoregressive(0.9, 350, seed), np.zeros(350), seed=seed)
        held += found.low <= 0 <= found.high
    assert held >= 89


def test_equal_errors_differ_by_nothing():
    same = np.array([0.0, 1.0, 1.0])
    found = difference(same, same)
    assert (found.mean, found.low, found.high, found.shown) == (0, 0, 0, False)


def test_a_clear_difference_is_shown_and_has_its_sign():
    generator = np.random.default_rng(0)
    worse = (generator.random(2000) < 0.4).astype(float)
    better = (generator.random(2000) < 0.2).astype(float)
    assert difference(worse, better).low > 0.1
    assert difference(better, worse).high < -0.1


def test_the_same_seed_gives_the_same_interval():
    series = autoregressive(0.5, 500, 1)
    assert difference(series, np.zeros(500), seed=3) == difference(series, np.zeros(500), seed=3)
    assert difference(series, np.zeros(500), seed=3) != difference(series, np.zeros(500), seed=4)
