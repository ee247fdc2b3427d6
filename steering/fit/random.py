"""A random vector of the same norms: the control that every vector has to beat."""

import torch

from steering.vector import SteeringVector


def random_like(vector: SteeringVector, generator: torch.Generator) -> SteeringVector:
    """Uniform directions on the spheres of `vector`'s norms, at its sites."""
    directions = {}
    for site, norm in vector.norms.items():
        noise = torch.randn(vector.d_model, generator=generator)
        directions[site] = noise * (norm / noise.norm())
    return SteeringVector(directions, vector.residual_norms, f"random, norm-matched to ({vector.how})")
