"""compare: what each latent of a crosscoder says of the two models, as a table."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from probes.crosscoder.crosscoder import Crosscoder
from probes.crosscoder.paired import Moments
from probes.tables import LATENTS


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


Kind = Literal["shared", "base only", "tuned only", "undecided", "dead"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ONE_MODEL = 0.9
"""Relative norm from which a latent may be tuned only, and 1 - it for base only: Minder et al. 2025, chat-only."""
NU_EPSILON_BELOW, NU_R_BELOW = 0.2, 0.5
"""Below both, a latent is one model's own: Minder et al. 2025, for latents that are truly chat-specific."""
SHARED_FROM = 0.5
"""A latent is shared where the other model has it, by either ratio, at half its strength or more: a choice of ours."""


def compare(crosscoder: Crosscoder, summed: Moments) -> pl.DataFrame:
    """`LATENTS` rows, of moments over activations that the crosscoder had better not been trained on.

    A latent is one model's only where its relative norm and both ratios of `latent_scaling` say so: an extreme norm
    alone may be an artefact of training. One whose rows are of like length and unlike direction is undecided, and its
    cosine says so. `placebo_share` is NaN; `with_placebo` fills it.
    """
    rows = crosscoder.W_dec.double().cpu()
    norms = rows.norm(dim=2)
    scaling = latent_scaling(crosscoder, summed)
    n_active = summed.n_active.double()
    frame = pl.DataFrame(
        {
            "latent": np.arange(crosscoder.d_sae, dtype=np.int32),
            "relative_norm": (norms[:, 1] / norms.sum(dim=1)).numpy(),
            # Left undefined where a row is 0, which has no direction.
            "cosine": (cosine_similarity(rows[:, 0], rows[:, 1]) / norms.all(dim=1)).numpy(),
            "nu_epsilon": scaling.nu_epsilon.numpy(),
            "nu_r": scaling.nu_r.numpy(),
            "firing_share": (n_active / summed.n_rows).numpy(),
            # 0 / 0 where it never fires.
            "mean_active": (summed.sums / n_active).numpy(),
        }
    )
    return LATENTS.checked(frame.with_columns(_kind(), pl.lit(np.nan).alias("placebo_share")))


def _kind() -> pl.Expr:
    # NaN compares as the largest number, and must decide nothing.
    nus = [pl.when(pl.col(name).is_not_nan()).then(pl.col(name)) for name in ("nu_epsilon", "nu_r")]
    own = (nus[0] < NU_EPSILON_BELOW) & (nus[1] < NU_R_BELOW)
    return (
        pl.when(pl.col("firing_share") == 0)
        .then(pl.lit("dead"))
        .when(own & (pl.col("relative_norm") >= ONE_MODEL))
        .then(pl.lit("tuned only"))
        .when(own & (pl.col("relative_norm") <= 1 - ONE_MODEL))
        .then(pl.lit("base only"))
        .when(pl.max_horizontal(nus) >= SHARED_FROM)
        .then(pl.lit("shared"))
        .otherwise(pl.lit("undecided"))
        .alias("kind")
    )
