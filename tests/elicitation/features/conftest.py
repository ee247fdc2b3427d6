"""An SAE that explains a tiny model's last stream exactly: two features for each dimension, one for either sign."""

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from lab.models.load import Model
from lab.models.tiny import tiny_model
from probes.capture.site import Site
from probes.sae.dictionary import Sae


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", seed=1)


@pytest.fixture(scope="module")
def signed_sae(model: Model) -> Sae:
    d_model = model.anatomy.d_model
    coder = StandardSAE(StandardSAEConfig(d_in=d_model, d_sae=2 * d_model, apply_b_dec_to_input=False))
    signs = torch.cat([torch.eye(d_model), -torch.eye(d_model)])
    with torch.no_grad():
        coder.W_dec.copy_(signs)
        coder.W_enc.copy_(signs.T)
        coder.b_enc.zero_()
    return Sae(name="signed", site=Site(1), coder=coder.requires_grad_(False), trained_on=None, digest="signed")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [[60 + row, *range(80, 80 + 3 + row % 4), 63] for row in range(12)]


@pytest.fixture(scope="module")
def texts(prompts: list[list[int]]) -> list[str]:
    """The same as text: token i is byte i."""
    return [bytes(prompt).decode() for prompt in prompts]
