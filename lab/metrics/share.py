"""The share of the tuned model's gain that an arm recovers, or the reason why no share can be given."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from lab.metrics.bootstrap import (
    LEVEL,
    Bounds,
    Interval,
    difference_interval,
    percentile_interval,
    resampled_means,
)
from lab.records.errors import EstimateError

REFUSAL_STDERRS = 5.0
"""A gap of fewer standard errors than this is refused: its ratio's interval would run over several gaps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """(arm - base) / (tuned - base) with its 95 % intervals; all but the gap are NaN when refused."""

    value: float
    """0 for the base, 1 for the tuned model; may leave [0, 1] on either side and is never clipped."""
    low: float
    """Lower end by Fieller: the headline."""
    high: float
    """Upper end by Fieller."""
    bootstrap_low: float
    """Lower end by the problem bootstrap; NaN where the resamples have no spread."""
    bootstrap_high: float
    """Upper end by the problem bootstrap."""
    gap: float
    """Mean of tuned - base over problems, in the unit of the inputs; negative where tuning made the model worse."""
    gap_stderr: float
    """Its standard error, paired by problem; NaN with one problem."""
    refusal: str | None
    """Why no share is given, in a sentence; None when it is given."""


def elicited_share(
    arm: Float[np.ndarray, " _problem"],
    base: Float[np.ndarray, " _problem"],
    tuned: Float[np.ndarray, " _problem"],
    weights: Int[np.ndarray, "boot _problem"],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Share:
    """Share of the gap between `base` and `tuned` that `arm` recovers, all three per problem and in the same order.

    Ratio of means, N / D with N = mean(arm - base) and D = mean(tuned - base), each paired by problem. The sign is
    kept: where tuning made the model worse, D < 0 and a positive share says that the arm goes the same way.
    Refused below five standard errors of D, and with fewer than three problems. `bounds` as in `difference_interval`.

    Headline interval: Fieller (1954, J. R. Stat. Soc. B 16:175), the set of shares r for which
    (N - r D)^2 <= t^2 Var(N - r D), t the Student quantile at n - 1 degrees of freedom; exact for normal means, where
    the bootstrap of a ratio is not. Departure: the covariance comes from the three paired standard errors,
    Cov(N, D) = (Var N + Var D - Var(N - D)) / 2, which is the sample covariance, except where nearly all problems
    agree: there `mean_interval` widens the standard error, so an arm that changed no answer has no made-up certainty.
    """
    gain = difference_interval(arm, base, weights, bounds=bounds)
    gap = difference_interval(tuned, base, weights, bounds=bounds)
    rest = difference_interval(arm, tuned, weights, bounds=bounds)
    n_problems = base.size
    if refusal := _refusal(gap, n_problems, bounds):
        return Share(
            value=np.nan,
            low=np.nan,
            high=np.nan,
            bootstrap_low=np.nan,
            bootstrap_high=np.nan,
            gap=gap.value,
            gap_stderr=gap.stderr,
            refusal=refusal,
        )
    value = gain.value / gap.value
    low, high = fieller_bounds(gain, gap, rest, float(stdtrit(n_problems - 1, (1 + LEVEL) / 2)))
    assert not np.isinf([low, high]).any(), "the refusal threshold lies above Fieller's"
    gaps = resampled_means(tuned.astype(np.float64) - base.astype(np.float64), weights)
    gains = resampled_means(arm.astype(np.float64) - base.astype(np.float64), weights)
    ratios = np.divide(gains, gaps, out=np.full(gaps.size, np.nan), where=gaps != 0)
    drawn = percentile_interval(value, ratios, n_problems)
    return Share(
        value=value,
        low=low,
        high=high,
        bootstrap_low=drawn.low,
        bootstrap_high=drawn.high,
        gap=gap.value,
        gap_stderr=gap.stderr,
        refusal=None,
    )


def fieller_bounds(numerator: Interval, denominator: Interval, difference: Interval, quantile: float) -> Bounds:
    """Fieller's interval for numerator / denominator; `difference` is numerator minus denominator, paired.

    The roots in r of (D^2 - q^2 Var D) r^2 - 2 (N D - q^2 Cov) r + (N^2 - q^2 Var N) = 0. The set is an interval only
    when |D| > q stderr(D); otherwise it is unbounded, and (-inf, inf) is returned for any unbounded set.
    """
    top, bottom = numerator.value, denominator.value
    var_top, var_bottom = numerator.stderr**2, denominator.stderr**2
    extreme = numerator.stderr * denominator.stderr
    covariance = float(np.clip((var_top + var_bottom - difference.stderr**2) / 2, -extreme, extreme))
    square = bottom**2 - quantile**2 * var_bottom
    if not square > 0:
        return Bounds(-np.inf, np.inf)
    centre = (top * bottom - quantile**2 * covariance) / square
    leftover = var_top * var_bottom - covariance**2
    inner = top**2 * var_bottom - 2 * top * bottom * covariance + bottom**2 * var_top - quantile**2 * leftover
    spread = quantile * math.sqrt(max(inner, 0.0)) / square
    return Bounds(centre - spread, centre + spread)


def _refusal(gap: Interval, n_problems: int, bounds: tuple[float, float]) -> str | None:
    if n_problems < 3:
        return f"a gap cannot be told from noise on {n_problems} problem(s): use at least 3, better hundreds"
    if np.isnan(gap.stderr):
        raise EstimateError(
            f"all {n_problems} problems show the gap {gap.value:g}, and bounds {bounds} do not limit unseen ones: "
            "give the extremes a problem's value can take"
        )
    if abs(gap.value) >= REFUSAL_STDERRS * gap.stderr:
        return None
    n_stderrs = abs(gap.value) / gap.stderr
    return (
        f"the gap between tuned and base is {gap.value:+.4f} with standard error {gap.stderr:.4f} "
        f"on {n_problems} problems, {n_stderrs:.1f} standard errors where {REFUSAL_STDERRS:g} are needed: "
        "a share of it would be noise; use more problems, or a pair with a larger gap"
    )


def gap_recovered(hybrid: float, base: float, tuned: float) -> float:
    """max(0, (hybrid - min(base, tuned)) / |tuned - base|) of three accuracies; NaN where base and tuned are equal.

    It is blind to the sign of the gain: where tuning did harm, an untouched base model scores 1 here. What falls below
    both models is lifted to 0, so the mean over pairs or seeds is too high. It has no interval and refuses no gap.
    `lab.metrics.share.elicited_share` is (hybrid - base) / (tuned - base), unclipped, with an interval and a refusal.
    """
    if tuned == base:
        return math.nan
    return max(0.0, (hybrid - min(base, tuned)) / abs(tuned - base))
