"""No cut leaves a number of scores above it that is nearer to the one wanted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steering.routing.routing import threshold

SCORES = arrays(np.float64, st.integers(1, 12), elements=st.integers(-4, 4).map(float))


@given(scores=SCORES, n_above=st.integers(0, 12))
def test_no_other_cut_comes_nearer(scores, n_above):
    off = abs((scores > threshold(scores, n_above)).sum() - n_above)
    assert off == min(abs((scores > cut).sum() - n_above) for cut in np.arange(-5, 5, 0.5))


@given(scores=SCORES, n_above=st.integers(0, 12))
def test_a_cut_never_stands_on_a_score(scores, n_above):
    assert threshold(scores, n_above) not in scores


@pytest.mark.parametrize(
    ("n_above", "cut"),
    [(0, 6.0), (1, 3.0), (2, 3.0), (3, 1.0), (4, -2.0)],
)
def test_a_cut_stands_half_way_between_scores(n_above, cut):
    # Equal scores cannot be parted: two above is as far from one as from three, and the higher cut is taken.
    assert threshold(np.array([4.0, 2.0, 2.0, 0.0]), n_above) == pytest.approx(cut)
