"""Controls: vectors that are as long as the one that they control for, and point elsewhere."""

import torch

from lab.records.errors import VectorError
from steering.vector import SteeringVector


def random_like(vector: SteeringVector, generator: torch.Generator) -> SteeringVector:
    """Uniform directions on the spheres of `vector`'s norms, at its sites."""
    directions = {}
    for site, norm in vector.norms.items():
        noise = torch.randn(vector.d_model, generator=generator)
        directions[site] = noise * (norm / noise.norm())
    return SteeringVector(directions, vector.residual_norms, f"random, norm-matched to ({vector.description})")


def norm_matched(control: SteeringVector, vector: SteeringVector) -> SteeringVector:
    """`control` stretched to the norm of `vector` at each of its sites; VectorError where it is zero and cannot be."""
    if control.sites != vector.sites or not all(control.norms.values()):
        raise VectorError(
            f"a control at {', '.join(map(str, control.sites))} of norms {list(control.norms.values())} cannot be "
            f"stretched to a vector at {', '.join(map(str, vector.sites))}: want the same sites and a direction at each"
        )
    stretched = {
        site: direction * (vector.norms[site] / control.norms[site]) for site, direction in control.directions.items()
    }
    return SteeringVector(
        stretched, vector.residual_norms, f"{control.description}, norm-matched to ({vector.description})"
    )
