"""placebo: the latents of a pair beside those of a pair that was not tuned.

A placebo pair is a base and the same base after a little more of its pretraining. What its crosscoder calls one
model's only is what the method finds where nothing was taught or elicited.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from lab.metrics.bootstrap import Bounds, Z
from probes.crosscoder.compare import KINDS, Kind
from probes.tables import LATENT_KINDS


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


@dataclass(frozen=True, slots=True)
class _Share:
    n: int
    n_of: int

    @property
    def value(self) -> float:
        return self.n / self.n_of if self.n_of else np.nan

    @property
    def bounds(self) -> Bounds:
        if not self.n_of:
            return Bounds(np.nan, np.nan)
        weight = 1 + Z**2 / self.n_of
        centre = (self.value + Z**2 / (2 * self.n_of)) / weight
        half = Z * np.sqrt(self.value * (1 - self.value) / self.n_of + Z**2 / (4 * self.n_of**2)) / weight
        # Exact at the ends, where rounding would leave [0, 1].
        low = 0.0 if self.n == 0 else float(centre - half)
        return Bounds(low, 1.0 if self.n == self.n_of else float(centre + half))


def _share(latents: pl.DataFrame | None, kind: Kind) -> _Share:
    if latents is None:
        return _Share(0, 0)
    return _Share(len(latents.filter(pl.col("kind") == kind)), len(latents if kind == "dead" else _living(latents)))


def _row(kind: Kind, pair: _Share, placebo: _Share) -> dict[str, object]:
    difference, (low, high), reason = np.nan, Bounds(np.nan, np.nan), "ok"
    if not pair.n_of:
        reason = "no living latents of the pair: train and read its crosscoder"
    elif not placebo.n_of:
        reason = "no living latents of a placebo: compare the base with a later checkpoint of its pretraining"
    else:
        difference, (low, high) = pair.value - placebo.value, _newcombe(pair, placebo)
    return {
        "kind": kind,
        "n": pair.n if pair.n_of else None,
        "share": pair.value,
        "low": pair.bounds.low,
        "high": pair.bounds.high,
        "placebo_n": placebo.n if placebo.n_of else None,
        "placebo_share": placebo.value,
        "placebo_low": placebo.bounds.low,
        "placebo_high": placebo.bounds.high,
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "reason": reason,
    }


def _newcombe(pair: _Share, placebo: _Share) -> Bounds:
    difference, one, other = pair.value - placebo.value, pair.bounds, placebo.bounds
    return Bounds(
        difference - float(np.hypot(pair.value - one.low, other.high - placebo.value)),
        difference + float(np.hypot(one.high - pair.value, placebo.value - other.low)),
    )


def _living(latents: pl.DataFrame) -> pl.DataFrame:
    return latents.filter(pl.col("kind") != "dead")


def _extremity(latents: pl.DataFrame) -> Float[np.ndarray, " latent"]:
    return np.abs(latents["relative_norm"].to_numpy() - 0.5)
