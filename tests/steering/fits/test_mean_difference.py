"""The difference of means, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import VectorError
from probes.capture.site import Site
from steering.fits.fits import mean_difference

SITE = Site(3)


def test_by_hand():
    positive = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    negative = torch.tensor([[0.0, 1.0]])
    vector = mean_difference(SITE, positive, negative, description="by hand")
    assert vector.sites == (SITE,)
    assert vector.directions[SITE].tolist() == [1.5, 1.0]
    # Norms 5, 0 and 1.
    assert vector.residual_norms[SITE] == 2.0
    assert vector.description == "by hand"


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
def test_it_turns_round_with_its_sets_and_ignores_what_both_share(n_positive, n_negative, seed):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(n_positive, 4, generator=generator)
    negative = torch.randn(n_negative, 4, generator=generator)
    shift = torch.randn(4, generator=generator)
    vector = mean_difference(SITE, positive, negative, description="")
    assert mean_difference(SITE, negative, positive, description="") == -vector
    shifted = mean_difference(SITE, positive + shift, negative + shift, description="")
    torch.testing.assert_close(shifted.directions[SITE], vector.directions[SITE], atol=1e-5, rtol=1e-5)


def test_half_precision_activations_are_averaged_in_single_precision():
    # 1 + 1/128 needs 8 bits of mantissa, which a sum of 300 such numbers in bfloat16 does not keep.
    positive = torch.full((300, 2), 1 + 1 / 128, dtype=torch.bfloat16)
    vector = mean_difference(SITE, positive, torch.zeros(1, 2, dtype=torch.bfloat16), description="")
    assert vector.directions[SITE].tolist() == pytest.approx([1 + 1 / 128] * 2, abs=1e-6)


@pytest.mark.parametrize(("n_positive", "n_negative"), [(0, 2), (2, 0), (0, 0)])
def test_an_empty_set_is_refused(n_positive, n_negative):
    with pytest.raises(VectorError, match=f"{n_positive} positive and {n_negative} negative activations"):
        mean_difference(SITE, torch.ones(n_positive, 2), torch.ones(n_negative, 2), description="")


def test_activations_that_are_not_finite_are_refused():
    with pytest.raises(VectorError, match="NaN or infinity"):
        mean_difference(SITE, torch.tensor([[math.nan, 0.0]]), torch.ones(1, 2), description="")
