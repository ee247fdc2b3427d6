"""Fits: every way to find a steering vector by its name; and those that need no descent.

A difference of means is the classic vector; decoder rows of an SAE make one of features that a person can look at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.fits.fit import Fit, Taught
from steering.fits.gradient import FirstTokenGradient, TextGradient
from steering.fits.policy_gradient import PolicyGradient
from steering.vector import SteeringVector


def mean_difference(
    site: Site,
    positive: Float[Tensor, "positive d_model"],
    negative: Float[Tensor, "negative d_model"],
    *,
    description: str,
) -> SteeringVector:
    """mean(positive) - mean(negative) at `site` (contrastive activation addition, Panickssery et al. 2023).

    The residual norm is the mean over both sets. Raises VectorError for an empty set.
    """
    if not len(positive) or not len(negative):
        raise VectorError(
            f"difference of means from {len(positive)} positive and {len(negative)} negative activations: "
            "want at least one of each; draw more traces"
        )
    norms = (positive.float().norm(dim=-1).sum() + negative.float().norm(dim=-1).sum()) / (
        len(positive) + len(negative)
    )
    return SteeringVector(
        {site: positive.float().mean(dim=0) - negative.float().mean(dim=0)}, {site: float(norms)}, description
    )


@dataclass(frozen=True, slots=True)
class MeanDifference(Fit[Taught]):
    """The difference of the two sides' mean streams just after the first token."""

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """Of the one site; no random number is drawn."""
        del seed
        (site,) = sites
        positive, negative = taught.sides(model, site)
        found = f"difference of means after the first token: {len(positive)} and {len(negative)}, {taught.description}"
        return mean_difference(site, positive, negative, description=found)


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


@dataclass(frozen=True, slots=True, eq=False)
class DecoderRows(Fit[Taught]):
    """The features of an SAE that tell the two sides apart, each at the dose of the difference of its means."""

    sae: Sae
    n_features: int = 8

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """At the SAE's site; no random number is drawn."""
        del seed
        (site,) = sites
        return self.of_sides(*taught.sides(model, site))

    @torch.inference_mode()
    def of_sides(
        self, positive: Float[Tensor, "positive d_model"], negative: Float[Tensor, "negative d_model"]
    ) -> SteeringVector:
        """Of the features whose means differ most, by the length that their decoder rows then have."""
        sae = self.sae
        means = [sae.encode(side.to(sae.W_dec.device)).float().mean(dim=0) for side in (positive, negative)]
        difference = means[0] - means[1]
        lengths = difference.abs() * sae.W_dec.float().norm(dim=-1)
        top = lengths.topk(min(self.n_features, sae.d_sae)).indices.tolist()
        norm = float(torch.cat([positive, negative]).norm(dim=-1).mean())
        return sae_decoder(sae, {feature: float(difference[feature]) for feature in top}, residual_norm=norm)


FITS: Mapping[str, type[Fit[Taught]] | type[PolicyGradient]] = {
    "mean": MeanDifference,
    "gradient": TextGradient,
    "gradient-first": FirstTokenGradient,
    "policy": PolicyGradient,
    "sae": DecoderRows,
}
"""Every kind by its name."""
