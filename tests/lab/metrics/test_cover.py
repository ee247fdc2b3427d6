from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.accuracy import cover_curve, covered
from lab.metrics.bootstrap import resamples
from lab.records.errors import EstimateError


def weights(n):
    return resamples(n, 300, np.random.default_rng(0))


def test_hand_arithmetic():
    rates = np.array([0.0, 0.25, 0.5, 1.0])
    curve = cover_curve(rates, [0.0, 0.25, 0.3, 1.0], weights(4))
    assert [point.value for point in curve.values()] == [1.0, 0.75, 0.5, 0.25]


def test_a_rate_of_three_tenths_reaches_a_tau_built_by_addition():
    assert np.linspace(0, 1, 11)[3] > 3 / 10
    assert covered(np.array([3 / 10]), float(np.linspace(0, 1, 11)[3])).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(1, 40))
def test_pass_at_k_is_the_weighted_area_under_the_cover_curve(n_correct, k):
    rates = np.array(n_correct) / 12
    # Cover@t is constant between multiples of 1/12, and k (1 - t)^(k - 1) integrates to -(1 - t)^k
    edges = np.linspace(0, 1, 13)
    area = sum(covered(rates, float(high)).mean() * ((1 - low) ** k - (1 - high) ** k) for low, high in pairwise(edges))
    assert area == pytest.approx((1 - (1 - rates) ** k).mean(), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_it_falls_with_tau_and_ignores_the_names_of_problems(rates):
    taus = [0.0, 0.2, 0.5, 0.9, 1.0]
    array = np.array(rates)
    values = [point.value for point in cover_curve(array, taus, weights(len(rates))).values()]
    assert values == sorted(values, reverse=True)
    assert values == [point.value for point in cover_curve(array[::-1], taus, weights(len(rates))).values()]


def test_what_cannot_be_a_rate_is_an_error():
    with pytest.raises(EstimateError, match="tau in"):
        covered(np.array([0.5]), 1.5)
    with pytest.raises(EstimateError, match="problem_accuracies"):
        covered(np.array([0.5, np.nan]), 0.5)
