"""A vector of decoder rows writes what the SAE's features write."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lab.records.errors import VectorError
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.fits.fits import sae_decoder

SITE = Site(1)


class Coder(nn.Module):
    """As much of an inference SAE as a decoder needs."""

    def __init__(self) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), requires_grad=False)
        self.b_dec = nn.Parameter(torch.full((4,), 0.5), requires_grad=False)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.W_dec + self.b_dec


SAE = Sae(name="small", site=SITE, coder=Coder(), trained_on=None, digest="0" * 16)


@given(st.dictionaries(st.integers(0, 5), st.floats(-4, 4, width=32), min_size=1))
def test_it_is_what_the_features_at_these_activations_add_to_the_decoded_stream(doses):
    vector = sae_decoder(SAE, doses, residual_norm=3.0)
    features = torch.zeros(6)
    for feature, dose in doses.items():
        features[feature] = dose
    wanted = SAE.decode(features) - SAE.decode(torch.zeros(6))
    torch.testing.assert_close(vector.directions[SITE], wanted, atol=1e-5, rtol=1e-5)
    assert vector.residual_norms[SITE] == 3.0


def test_it_says_which_features_and_doses():
    assert sae_decoder(SAE, {4: 1.5, 2: -1.0}, residual_norm=math.nan).description == (
        "decoder rows of SAE small: -1 x 2, 1.5 x 4"
    )


@pytest.mark.parametrize("doses", [{}, {6: 1.0}, {-1: 1.0}])
def test_no_feature_or_one_that_is_not_there_is_refused(doses):
    with pytest.raises(VectorError, match="of SAE small, which has 6: want at least one, from 0 to 5"):
        sae_decoder(SAE, doses, residual_norm=1.0)
