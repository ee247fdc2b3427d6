"""latent_scaling: how strongly each latent's direction is there in the model that has less of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.crosscoder.crosscoder import Crosscoder
from probes.crosscoder.moments import Moments


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentScaling:
    """Two ratios a latent: about 0 where the other model lacks it, about 1 where it has it as strongly."""

    nu_epsilon: Float[Tensor, " d_sae"]
    """What the other model's own decoder row and error hold of it; high where the decoder shrank it to nothing."""
    nu_r: Float[Tensor, " d_sae"]
    """What the other model's reconstruction holds of it; high where other latents write it there."""


def latent_scaling(crosscoder: Crosscoder, summed: Moments) -> LatentScaling:
    """nu_epsilon and nu_r of every latent, in closed form.

    Latent Scaling of Minder et al. 2025 (2504.02922). For latent j with activation f(x) and direction d, the strength
    of d in a target y is the b that makes sum_x |b f(x) d - y(x)|^2 least: b = sum f (d . y) / (sum f^2 |d|^2). The
    targets in model m are its error with the latent's part put back, y = error_m + f d_m (epsilon), and its
    reconstruction (r). nu = b in the other model / b in the own model.

    Departures: the paper asks this of tuned-only candidates, so that own is tuned; here own is the model with the
    longer decoder row, for every latent. The reconstruction is taken without its bias, which every latent would count
    in part as its own. NaN where a latent never fires, or b in its own model is not above 0.
    """
    rows = crosscoder.W_dec.double().cpu()
    own = crosscoder.own_model.cpu()
    each = torch.arange(crosscoder.d_sae)
    direction = rows[each, own]
    size = summed.squares * direction.square().sum(dim=1)
    put_back = summed.squares * torch.einsum("smd,sd->ms", rows, direction)
    return LatentScaling(
        nu_epsilon=_ratio((summed.along_error + put_back) / size, own),
        nu_r=_ratio(summed.along_reconstruction / size, own),
    )


def _ratio(strength: Float[Tensor, "2 d_sae"], own: Int[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    mine, other = strength.gather(0, torch.stack([own, 1 - own]))
    return torch.where(mine > 0, other / mine, torch.nan)
