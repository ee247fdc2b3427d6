"""A fit on lessons is the vector that its method finds in them, or a reason why there is none."""

import pytest
import torch
from torch import nn

from probes.sae.dictionary import Sae
from probes.site import Site
from steering.comparison.fits import from_features

SITE = Site(1)


class Identity(nn.Module):
    """An SAE with a feature for each dimension, of decoder rows that are as long as their number plus one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(torch.diag(torch.arange(1.0, width + 1)), requires_grad=False)

    def encode(self, stream: torch.Tensor) -> torch.Tensor:
        return stream.relu()


def sae(width: int = 4) -> Sae:
    return Sae(name="sae", site=SITE, coder=Identity(width), trained_on=None, digest="0")


def test_features_are_those_whose_rows_move_the_stream_furthest_at_the_dose_of_their_difference():
    positive = torch.tensor([[4.0, 0.0, 2.0, 0.0], [6.0, 0.0, 2.0, 0.0]])
    negative = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    # Differences 4, 0, 2 and -1; times the rows' lengths 1 to 4: 4, 0, 6 and 4.
    vector = from_features(sae(), positive, negative, n=1)
    assert vector.directions[SITE].tolist() == [0.0, 0.0, 6.0, 0.0]
    both = from_features(sae(), positive, negative, n=9)
    assert both.directions[SITE].tolist() == [4.0, 0.0, 6.0, -4.0]
    lengths = torch.cat([positive, negative]).norm(dim=-1)
    assert both.residual_norms[SITE] == pytest.approx(float(lengths.mean()))
    assert "decoder rows of SAE sae" in both.how
