"""k_means: clusters of unit vectors, by direction."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

N_STARTS = 8
"""The best of so many is taken: from a single start two clusters are often found as one."""
N_ROUNDS = 30


def k_means(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    """Unit centres that lie nearest to `units` in cosine: spherical k-means (Dhillon and Modha 2001).

    Starts are drawn as by greedy k-means++ (Arthur and Vassilvitskii 2007): a further one with a probability that grows
    with its squared distance to the nearest before, and of a few so drawn the one that leaves the least distance.
    """
    found = [_settled(units, _spread(units, n_clusters, generator)) for _ in range(N_STARTS)]
    return max(found, key=lambda centres: float((units @ centres.T).amax(dim=1).sum()))


def _spread(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    n_drawn = min(len(units), 2 + int(math.log(n_clusters)))
    chosen = [int(torch.randint(len(units), (1,), generator=generator))]
    distances = (2 - 2 * units @ units[chosen[0]]).clamp_min(0)
    while len(chosen) < n_clusters:
        # Where fewer differ than are wanted, all that is left is at 0.
        drawn = torch.multinomial(distances + 1e-9, n_drawn, generator=generator)
        left = torch.minimum(distances, (2 - 2 * units[drawn] @ units.T).clamp_min(0))
        best = int(left.sum(dim=1).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
    return units[chosen]


def _settled(
    units: Float[Tensor, "segment d_model"], centres: Float[Tensor, "cluster d_model"]
) -> Float[Tensor, "cluster d_model"]:
    for _ in range(N_ROUNDS):
        nearest = (units @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, units)
        # One without a member stays where it is.
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 0, torch.nn.functional.normalize(sums, dim=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
