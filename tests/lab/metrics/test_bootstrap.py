import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.bootstrap import (
    difference_interval,
    mean_interval,
    percentile_interval,
    ratio_intervals,
    resampled_means,
    resamples,
    unlike_bounds,
)
from lab.records.errors import EstimateError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_every_resample_draws_as_many_problems_as_there_are():
    weights = resamples(7, 200, rng())
    assert weights.shape == (200, 7)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, resamples(7, 200, rng()))


@pytest.mark.parametrize(("n_problems", "n_boot"), [(0, 1000), (5, 99)])
def test_too_few_problems_or_resamples_are_refused(n_problems, n_boot):
    with pytest.raises(EstimateError, match="cannot resample"):
        resamples(n_problems, n_boot, rng())


def test_a_resampled_mean_is_the_mean_of_the_problems_drawn():
    means = resampled_means(np.array([1.0, 2.0, 6.0]), np.array([[1, 1, 1], [3, 0, 0], [0, 1, 2], [0, 0, 0]]))
    np.testing.assert_allclose(means, [3.0, 1.0, 14 / 3, np.nan])


def test_the_standard_error_of_a_mean_is_that_of_the_textbook():
    values = rng(1).random(50)
    interval = mean_interval(values, resamples(50, 4000, rng(2)))
    assert interval.value == pytest.approx(values.mean())
    assert interval.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    half = 2.0096 * interval.stderr
    assert interval.low == pytest.approx(interval.value - half, abs=0.15 * half)
    assert interval.high == pytest.approx(interval.value + half, abs=0.15 * half)


def test_the_replicates_standard_deviation_is_corrected_for_small_samples():
    values = rng(1).random(6)
    weights = resamples(6, 20_000, rng(2))
    drawn = percentile_interval(float(values.mean()), resampled_means(values, weights), 6)
    assert drawn.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(6), rel=0.03)


def test_one_problem_gives_no_interval():
    interval = mean_interval(np.array([0.5]), resamples(1, 100, rng()))
    assert interval.value == 0.5
    assert np.isnan([interval.low, interval.high, interval.stderr]).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_at_zero_and_one_the_interval_is_clopper_pearson_on_problems(value):
    interval = mean_interval(np.full(100, value), resamples(100, 100, rng()))
    unlike = 1 - 0.025 ** (1 / 100)
    assert unlike == pytest.approx(3.7 / 100, rel=0.03)
    assert interval.low == pytest.approx(0.0 if value == 0 else 1 - unlike)
    assert interval.high == pytest.approx(unlike if value == 0 else 1.0)
    assert interval.stderr > 0


def test_equal_values_inside_the_bounds_do_not_make_certainty():
    interval = mean_interval(np.full(10, 0.25), resamples(10, 100, rng()))
    unlike = 1 - 0.025**0.1
    assert (interval.low, interval.high) == pytest.approx((0.25 - unlike * 0.25, 0.25 + unlike * 0.75))


def test_equal_values_without_bounds_give_no_interval():
    interval = mean_interval(np.full(10, 3.7), resamples(10, 100, rng()), bounds=(-np.inf, np.inf))
    assert interval.value == pytest.approx(3.7)
    assert np.isnan([interval.low, interval.high, interval.stderr]).all()


def test_one_failure_among_many_never_raises_the_lower_end():
    weights = resamples(200, 1000, rng())
    values = np.ones(200)
    all_solved = mean_interval(values, weights)
    values[17] = 0.0
    assert mean_interval(values, weights).low < all_solved.low


@pytest.mark.parametrize(("p", "n"), [(0.5, 60), (0.9, 100), (0.99, 100)])
def test_the_interval_of_a_rate_covers_the_truth(p, n):
    generator = rng(3)
    weights = resamples(n, 500, generator)
    hits = 0
    for _ in range(300):
        interval = mean_interval((generator.random(n) < p).astype(np.float64), weights)
        hits += interval.low <= p <= interval.high
    assert hits / 300 >= 0.92


def test_pairing_cancels_what_two_arms_share():
    generator = rng(4)
    difficulty = generator.random(80) * 0.8
    weights = resamples(80, 1000, generator)
    paired = difference_interval(difficulty + 0.1 + 0.01 * generator.random(80), difficulty, weights)
    assert paired.high - paired.low < 0.01
    assert paired.value == pytest.approx(0.105, abs=0.003)


def test_two_arms_that_never_differ_may_still_differ_on_other_problems():
    same = rng(5).random(100)
    interval = difference_interval(same, same, resamples(100, 100, rng()))
    unlike = 1 - 0.025 ** (1 / 100)
    assert (interval.low, interval.value, interval.high) == pytest.approx((-unlike, 0.0, unlike))


def test_undefined_resamples_count_as_the_worst_on_either_side():
    replicates = np.where(np.arange(1000) < 100, np.nan, np.linspace(0.4, 0.6, 1000))
    interval = percentile_interval(0.5, replicates, 50, bounds=(0.0, 1.0))
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_an_error(bad):
    with pytest.raises(EstimateError, match="problem 1"):
        mean_interval(np.array([0.5, bad]), resamples(2, 100, rng()))


def test_values_out_of_bounds_are_an_error():
    with pytest.raises(EstimateError, match="leave the bounds"):
        mean_interval(np.array([0.5, 3.0]), resamples(2, 100, rng()))


def test_no_problems_and_foreign_weights_and_unpaired_arms_are_errors():
    weights = resamples(3, 100, rng())
    with pytest.raises(EstimateError, match="no problems"):
        mean_interval(np.array([], dtype=np.float64), weights)
    with pytest.raises(EstimateError, match="weights for 3"):
        mean_interval(np.array([0.1, 0.2]), weights)
    with pytest.raises(EstimateError, match="cannot be paired"):
        difference_interval(np.array([0.1, 0.2]), np.array([0.1, 0.2, 0.3]), weights)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_value_and_does_not_depend_on_the_names_of_problems(values, seed):
    generator = rng(seed)
    weights = resamples(len(values), 200, generator)
    order = generator.permutation(len(values))
    array = np.array(values)
    interval, renamed = mean_interval(array, weights), mean_interval(array[order], weights[:, order])
    assert interval.low - 1e-12 <= interval.value <= interval.high + 1e-12
    assert (interval.value, interval.low, interval.high, interval.stderr) == pytest.approx(
        (renamed.value, renamed.low, renamed.high, renamed.stderr), abs=1e-12
    )


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(2, 10_000))
def test_the_bound_for_unseen_problems_stays_in_bounds_and_shrinks_with_problems(value, n_problems):
    low, high = unlike_bounds(value, n_problems, (0.0, 1.0))
    fewer_low, fewer_high = unlike_bounds(value, n_problems - 1, (0.0, 1.0))
    assert 0 <= fewer_low <= low <= value <= high <= fewer_high <= 1


def made_sums(seed, n_problems, n_stats):
    """Random sums of many statistics: the first is 0 everywhere, and the second one item alike everywhere."""
    draw = rng(seed)
    sizes = draw.integers(1, 5, n_problems)
    sums = draw.normal(size=(n_problems, n_stats)) * (draw.random((n_problems, n_stats)) < 0.6)
    sums[:, 0], sums[:, 1] = 0, 0.3 * sizes
    return sums, sizes


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 7), st.integers(1, 8), st.booleans())
def test_many_ratios_at_once_have_the_interval_of_each_alone(seed, n_problems, n_stats, chunk, draws_empty):
    sums, sizes = made_sums(seed, n_problems, n_stats)
    weights = resamples(n_problems, 101, rng(seed))
    if draws_empty:
        # As in a family of problems, a resample may draw none of them.
        weights[::7] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.metrics.bootstrap.CHUNK", chunk)
        found = ratio_intervals(sums, sizes, weights)
    for stat, column in enumerate(sums.T):
        with np.errstate(invalid="ignore"):
            replicates = (weights @ column) / (weights @ sizes)
        alone = percentile_interval(float(column.sum() / sizes.sum()), replicates, n_problems)
        here = found.value[stat], found.low[stat], found.high[stat]
        assert here == pytest.approx((alone.value, alone.low, alone.high), rel=1e-12, abs=1e-12, nan_ok=True)
    assert np.isnan(found.low[:2]).all()
    assert np.isnan(found.high[:2]).all()


def test_ratios_of_items_that_are_one_a_problem_are_means():
    values = rng(3).normal(size=(20, 3))
    weights = resamples(20, 400, rng(4))
    found = ratio_intervals(values, np.ones(20, dtype=np.int64), weights)
    for stat, column in enumerate(values.T):
        alone = mean_interval(column, weights, bounds=(-np.inf, np.inf))
        here = found.value[stat], found.low[stat], found.high[stat]
        assert here == pytest.approx((alone.value, alone.low, alone.high))


def test_ratios_need_weights_of_their_problems():
    with pytest.raises(EstimateError, match="3 problems came with weights for 4"):
        ratio_intervals(np.ones((3, 2)), np.ones(3, dtype=np.int64), resamples(4, 100, rng()))


def test_a_resample_without_a_value_counts_as_the_worst_on_either_side():
    replicates = np.linspace(0.4, 0.6, 100)
    replicates[rng(5).choice(100, 20, replace=False)] = np.nan
    interval = percentile_interval(0.5, replicates, 30, bounds=(0.0, 1.0))
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert interval.stderr == pytest.approx(np.nanstd(replicates) * np.sqrt(30 / 29))
