from fractions import Fraction
from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.accuracy import accuracy, pass_at_k_curve, problem_pass_at_k
from lab.metrics.bootstrap import resamples
from lab.records.errors import EstimateError

counts = st.integers(1, 120).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


def one(n, c, k):
    return float(problem_pass_at_k(np.array([n]), np.array([c]), k)[0])


@settings(deadline=None)
@given(counts)
def test_it_is_the_ratio_of_binomials_of_chen_et_al(count):
    n, c, k = count
    exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert one(n, c, k) == pytest.approx(exact, rel=1e-12, abs=0)


@settings(deadline=None)
@given(counts)
def test_more_tries_never_hurt(count):
    n, c, _ = count
    curve = [one(n, c, k) for k in range(1, n + 1)]
    assert all(low <= high + 1e-12 for low, high in pairwise(curve))
    assert curve[-1] == float(c > 0)


def test_hand_arithmetic():
    # five samples, two right: a pair misses both with chance C(3, 2) / C(5, 2) = 3 / 10
    assert one(5, 2, 2) == pytest.approx(0.7)


def test_a_small_chance_keeps_its_digits_among_a_million_samples():
    assert one(1_000_000, 1, 1) == pytest.approx(1e-6, rel=1e-14)
    assert one(1_000_000, 1, 1000) == pytest.approx(1e-3, rel=1e-12)
    assert one(1_000_000, 3, 5) == pytest.approx(float(1 - Fraction(comb(999_997, 5), comb(1_000_000, 5))), rel=1e-12)


def test_it_is_unbiased():
    generator = np.random.default_rng(0)
    n_correct = generator.binomial(8, 0.2, size=20_000)
    mean = problem_pass_at_k(np.full(20_000, 8), n_correct, 4).mean()
    assert mean == pytest.approx(1 - 0.8**4, abs=0.01)


def test_a_problem_with_too_few_samples_is_undefined():
    estimates = problem_pass_at_k(np.array([4, 2]), np.array([1, 2]), 3)
    np.testing.assert_allclose(estimates, [0.75, np.nan])


def test_the_curve_starts_at_the_accuracy_and_ignores_the_order_of_samples():
    generator = np.random.default_rng(1)
    verdicts = generator.random((40, 16)) < generator.random((40, 1))
    weights = resamples(40, 500, generator)
    curve = pass_at_k_curve(verdicts, [1, 4, 16], weights)
    assert list(curve) == [1, 4, 16]
    whole = accuracy(verdicts, weights)
    assert curve[1].value == pytest.approx(whole.value, abs=1e-12)
    assert curve[1].low == pytest.approx(whole.low, abs=1e-12)
    assert curve[16].value == pytest.approx(verdicts.any(axis=1).mean())
    assert pass_at_k_curve(generator.permuted(verdicts, axis=1), [1, 4, 16], weights) == curve
    order = generator.permutation(40)
    renamed = pass_at_k_curve(verdicts[order], [4], weights[:, order])[4]
    assert (renamed.value, renamed.low) == pytest.approx((curve[4].value, curve[4].low), abs=1e-12)


def test_asking_more_tries_than_samples_says_what_to_do():
    weights = resamples(3, 100, np.random.default_rng(0))
    with pytest.raises(EstimateError, match=r"k = 64 but only 32 samples a problem: draw more samples or ask k <= 32"):
        pass_at_k_curve(np.ones((3, 32), dtype=bool), [1, 64], weights)


def test_impossible_counts_are_errors():
    with pytest.raises(EstimateError, match="5 correct of 4"):
        one(4, 5, 1)
    with pytest.raises(EstimateError, match="k >= 1"):
        one(4, 2, 0)
    with pytest.raises(EstimateError, match="no problems"):
        pass_at_k_curve(np.ones((0, 4), dtype=bool), [1], resamples(1, 100, np.random.default_rng(0)))
