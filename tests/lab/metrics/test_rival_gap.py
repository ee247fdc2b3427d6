"""The rival's share of a gap, by hand and beside the honest one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.metrics.accuracy import elicited_share, gap_recovered
from lab.metrics.bootstrap import resamples

accuracies = st.integers(0, 40).map(lambda n: n / 40)


def test_the_published_rows_come_out():
    # Llama-3.1-8B on GSM8K, Qwen-32B on MATH500; and one where tuning did harm.
    assert gap_recovered(62.3, 39.4, 83.8) == pytest.approx(0.5158, abs=1e-4)
    assert gap_recovered(74.6, 59.4, 86.0) == pytest.approx(0.5714, abs=1e-4)
    assert gap_recovered(31.6, 33.1, 45.1) == 0.0


@given(accuracies, accuracies, accuracies)
def test_it_is_blind_to_which_of_the_two_is_the_tuned_model(hybrid, base, tuned):
    if base == tuned:
        assert math.isnan(gap_recovered(hybrid, base, tuned))
    else:
        assert gap_recovered(hybrid, base, tuned) == gap_recovered(hybrid, tuned, base) >= 0


@given(accuracies, accuracies)
def test_an_untouched_base_recovers_all_where_tuning_did_harm(one, other):
    if one != other:
        assert gap_recovered(max(one, other), max(one, other), min(one, other)) == 1.0
        assert gap_recovered(min(one, other), min(one, other), max(one, other)) == 0.0


@pytest.mark.parametrize("right", [3, 12, 25])
def test_it_is_the_honest_share_where_tuning_helped_and_the_arm_did_no_harm(right):
    generator = np.random.default_rng(0)
    base, tuned, arm = (np.arange(40) < n for n in (10, 36, right))
    base, tuned, arm = (column.astype(float) for column in (base, tuned, arm))
    honest = elicited_share(arm, base, tuned, resamples(40, 200, generator)).value
    theirs = gap_recovered(arm.mean(), base.mean(), tuned.mean())
    assert theirs == pytest.approx(max(0.0, honest))
    # Where the arm did harm, only the honest share says so.
    assert (honest < 0) == (right == 3)
