"""sae_decoder: a vector made of decoder rows of an SAE, each at a dose of its own."""

from collections.abc import Mapping

import torch

from lab.records.errors import VectorError
from probes.sae.dictionary import Sae
from steering.vector import SteeringVector


def sae_decoder(sae: Sae, doses: Mapping[int, float], *, residual_norm: float) -> SteeringVector:
    """The sum over features i of doses[i] * W_dec[i], at the site of `sae`.

    A dose is in units of the feature's activation: added everywhere, the vector writes what the feature writes when it
    is that active. `residual_norm` is that of the model at the site (`residual_norms`), NaN if unknown. Raises
    VectorError for no feature, or for one that the SAE does not have.
    """
    beyond = sorted(feature for feature in doses if not 0 <= feature < sae.d_sae)
    if beyond or not doses:
        raise VectorError(
            f"features {beyond or 'none'} of SAE {sae.name}, which has {sae.d_sae}: want at least one, from 0 to "
            f"{sae.d_sae - 1}"
        )
    features = sorted(doses)
    weights = torch.tensor([doses[feature] for feature in features], device=sae.W_dec.device)
    direction = weights @ sae.W_dec[features].float()
    parts = ", ".join(f"{doses[feature]:g} x {feature}" for feature in features)
    return SteeringVector({sae.site: direction}, {sae.site: residual_norm}, f"decoder rows of SAE {sae.name}: {parts}")
