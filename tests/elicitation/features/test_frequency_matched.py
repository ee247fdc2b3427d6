import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elicitation.study.interventions import N_NEAREST, frequency_matched
from lab.records.errors import EstimateError


def drawn(features, shares, n_draws=20, seed=0):
    return frequency_matched(features, np.asarray(shares, dtype=float), n_draws, np.random.default_rng(seed))


@given(
    st.lists(st.floats(1e-4, 1.0), min_size=20, max_size=60),
    st.lists(st.integers(0, 19), min_size=1, max_size=6, unique=True),
    st.integers(0, 5),
)
def test_a_draw_holds_other_features_and_none_twice(shares, features, seed):
    for draw in drawn(features, shares, seed=seed):
        assert len(set(draw.tolist())) == len(features)
        assert not set(draw.tolist()) & set(features)


def test_candidates_are_the_nearest_in_firing_share_by_ratio():
    shares = [0.5, *(0.5 * 0.9**power for power in range(1, 30))]
    found = set(drawn([0], shares, n_draws=500).ravel().tolist())
    assert found == set(range(1, N_NEAREST + 1))


def test_features_that_never_fire_are_not_drawn():
    shares = [0.1, 0.1, 0.0, 0.0, 0.2]
    assert set(drawn([0], shares, n_draws=200).ravel().tolist()) == {1, 4}


def test_each_feature_is_matched_with_its_own_kind():
    common, rare = [0.5] * (N_NEAREST + 1), [0.001] * (N_NEAREST + 1)
    draws = drawn([0, N_NEAREST + 1], common + rare, n_draws=100)
    assert (draws[:, 0] <= N_NEAREST).all()
    assert (draws[:, 1] > N_NEAREST).all()


def test_equal_seeds_draw_alike_and_others_do_not():
    shares = np.linspace(0.01, 0.5, 64)
    assert np.array_equal(drawn([3, 9], shares, seed=1), drawn([3, 9], shares, seed=1))
    assert not np.array_equal(drawn([3, 9], shares, seed=1), drawn([3, 9], shares, seed=2))


def test_of_equally_near_features_all_are_drawn():
    assert set(drawn([0], [0.1] * 101, n_draws=2000).ravel().tolist()) == set(range(1, 101))


def test_too_few_others_are_refused():
    with pytest.raises(EstimateError, match="1 other features fire, to match 2: choose fewer features"):
        drawn([0, 1], [0.1, 0.1, 0.1, 0.0])


def test_a_feature_that_never_fires_has_no_match():
    with pytest.raises(EstimateError, match=r"features \[1\] never fire"):
        drawn([0, 1], [0.1, 0.0, 0.1, 0.1])
