"""Difference of means: the classic steering vector."""

from jaxtyping import Float
from torch import Tensor

from lab.records.errors import VectorError
from probes.capture.site import Site
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
