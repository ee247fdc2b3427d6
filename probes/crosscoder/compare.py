"""compare: what each latent of a crosscoder says of the two models, as a table."""

from typing import Literal, get_args

import numpy as np
import polars as pl
from torch.nn.functional import cosine_similarity

from lab.feature_tables import LATENTS
from probes.crosscoder.crosscoder import Crosscoder
from probes.crosscoder.latent_scaling import latent_scaling
from probes.crosscoder.moments import Moments

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
