"""compare: what each latent of a crosscoder says of the two models, as a table."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lab.metrics.bootstrap import Bounds
from probes.crosscoder.crosscoder import Crosscoder, Moments
from probes.tables import LATENT_KINDS, LATENTS


class LatentScaling(NamedTuple):
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
    frame = pl.DataFrame(
        {
            "latent": np.arange(crosscoder.d_sae, dtype=np.int32),
            "relative_norm": (norms[:, 1] / norms.sum(dim=1)).numpy(),
            # Left undefined where a row is 0, which has no direction.
            "cosine": (cosine_similarity(rows[:, 0], rows[:, 1]) / norms.all(dim=1)).numpy(),
            "nu_epsilon": scaling.nu_epsilon.numpy(),
            "nu_r": scaling.nu_r.numpy(),
            "firing_share": (summed.n_active / summed.n_rows).numpy(),
            # 0 / 0 where it never fires.
            "mean_active": (summed.sums / summed.n_active).numpy(),
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


def with_placebo(latents: pl.DataFrame, placebo: pl.DataFrame) -> pl.DataFrame:
    """`LATENTS` rows with `placebo_share` filled: the placebo's living latents whose relative norm is at least as far
    from 1/2, as a share; NaN for the dead, and where the placebo has none alive.
    """
    distances, mine = np.sort(_extremity(_living(placebo))), _extremity(latents)
    as_far = len(distances) - np.searchsorted(distances, mine, side="left")
    share = as_far / len(distances) if len(distances) else np.full(len(mine), np.nan)
    dead = (latents["kind"] == "dead").to_numpy()
    return latents.with_columns(pl.Series("placebo_share", np.where(dead, np.nan, share)))


def against_placebo(latents: pl.DataFrame | None, placebo: pl.DataFrame | None) -> pl.DataFrame:
    """`LATENT_KINDS` rows from the `LATENTS` of a pair and of a placebo pair, in the order of `KINDS`.

    The difference is NaN, with the reason, where either is missing or has no latent alive. Intervals are Wilson's for
    a share (1927) and Newcombe's hybrid of two for a difference (1998, method 10). They take the latents of one
    crosscoder as draws: how much another seed or other texts would change is not in them.
    """
    return LATENT_KINDS.frame([_row(kind, _share(latents, kind), _share(placebo, kind)) for kind in KINDS])


class _Share(NamedTuple):
    n: int
    n_of: int

    @property
    def value(self) -> float:
        return self.n / self.n_of if self.n_of else np.nan

    @property
    def bounds(self) -> Bounds:
        if not self.n_of:
            return Bounds(np.nan, np.nan)
        wilson = binomtest(self.n, self.n_of).proportion_ci(method="wilson")
        return Bounds(float(wilson.low), float(wilson.high))


def _share(latents: pl.DataFrame | None, kind: Kind) -> _Share:
    if latents is None:
        return _Share(0, 0)
    return _Share(len(latents.filter(pl.col("kind") == kind)), len(latents if kind == "dead" else _living(latents)))


def _row(kind: Kind, pair: _Share, placebo: _Share) -> dict[str, object]:
    difference, low, high, reason = np.nan, np.nan, np.nan, "ok"
    if not pair.n_of:
        reason = "no living latents of the pair: train and read its crosscoder"
    elif not placebo.n_of:
        reason = "no living latents of a placebo: compare the base with a later checkpoint of its pretraining"
    else:
        difference, one, other = pair.value - placebo.value, pair.bounds, placebo.bounds
        low = difference - float(np.hypot(pair.value - one.low, other.high - placebo.value))
        high = difference + float(np.hypot(one.high - pair.value, placebo.value - other.low))
    row = {"kind": kind, "difference": difference, "difference_low": low, "difference_high": high, "reason": reason}
    for prefix, side in (("", pair), ("placebo_", placebo)):
        row |= {f"{prefix}n": side.n if side.n_of else None, f"{prefix}share": side.value}
        row |= {f"{prefix}{end}": bound for end, bound in side.bounds._asdict().items()}
    return row


def _living(latents: pl.DataFrame) -> pl.DataFrame:
    return latents.filter(pl.col("kind") != "dead")


def _extremity(latents: pl.DataFrame) -> Float[np.ndarray, " latent"]:
    return np.abs(latents["relative_norm"].to_numpy() - 0.5)
