"""The one resampling of the project: problems are drawn with replacement, and every arm sees the same draws.

A study calls `resamples` once and hands the same weights to every statistic, so any two numbers of it are paired.
Samples of one problem are never resampled: they are a cluster, and their scatter is part of their problem's value.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit

from lab.errors import EstimateError

LEVEL = 0.95
"""Confidence of every interval in the project."""
Z = 1.959963984540054
"""Normal quantile of (1 + LEVEL) / 2."""
FEW = 10
"""Below this many problems off the common value a percentile of resamples is not to be trusted (the n p > 10 rule)."""
MIN_BOOT = 100
"""Fewer resamples than this hold no 2.5 % tail; 2,000 or more are wanted for a reported number."""


class Bounds(NamedTuple):
    """Two ends of a range."""

    low: float
    """Lower end; -inf where unbounded, NaN where undefined."""
    high: float
    """Upper end; inf where unbounded, NaN where undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A statistic over problems, with its 95 % interval; NaN where undefined."""

    value: float
    """The statistic on the problems as they are."""
    low: float
    """Lower end; NaN with fewer than two problems."""
    high: float
    """Upper end; NaN with fewer than two problems."""
    stderr: float
    """Standard error over problems; NaN with fewer than two problems, never 0."""


def resamples(n_problems: int, n_boot: int, generator: np.random.Generator) -> Int[np.ndarray, "boot problem"]:
    """How often each problem is drawn in each of `n_boot` resamples: multinomial weights; rows sum to `n_problems`."""
    if n_problems < 1 or n_boot < MIN_BOOT:
        raise EstimateError(
            f"cannot resample {n_problems} problems {n_boot} times: give at least 1 problem and {MIN_BOOT} resamples"
        )
    return generator.multinomial(n_problems, np.full(n_problems, 1.0 / n_problems), size=n_boot)


def resampled_means(
    per_problem: Float[np.ndarray, " problem"], weights: Int[np.ndarray, "boot _problem"]
) -> Float[np.ndarray, " boot"]:
    """Mean over problems in each resample; NaN in a resample that drew none of them (possible in a family)."""
    if weights.shape[1] != per_problem.size:
        raise EstimateError(
            f"{per_problem.size} problems came with weights for {weights.shape[1]}: "
            "make the weights with resamples(n_problems, ...) for the same problems in the same order"
        )
    totals = weights.sum(axis=1).astype(np.float64)
    sums = weights.astype(np.float64) @ per_problem.astype(np.float64)
    return np.divide(sums, totals, out=np.full(totals.size, np.nan), where=totals > 0)


def percentile_interval(
    value: float,
    replicates: Float[np.ndarray, " boot"],
    n_problems: int,
    *,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of any statistic of the problems from its values in the resamples; `bounds` are its possible extremes.

    Expanded percentiles (Hesterberg 2015, "What teachers should know about the bootstrap", section 4): the tail is
    Phi(-sqrt(n / (n - 1)) t) with t the Student quantile at n - 1 degrees of freedom, instead of 2.5 %, which undoes
    the percentile interval's narrowness at small n; `stderr` is the replicates' standard deviation times
    sqrt(n / (n - 1)) for the same reason. A resample where the statistic is undefined (NaN) counts as the worst value
    on either side. Replicates without any spread say nothing of the width: then `unlike_bounds` holds instead.
    """
    if n_problems < 2:
        return Interval(value=value, low=np.nan, high=np.nan, stderr=np.nan)
    defined = replicates[np.isfinite(replicates)]
    if defined.size and np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        low, high = unlike_bounds(value, n_problems, bounds)
        return Interval(value=value, low=low, high=high, stderr=(high - low) / (2 * Z))
    growth = np.sqrt(n_problems / (n_problems - 1))
    tail = float(ndtr(-growth * stdtrit(n_problems - 1, (1 + LEVEL) / 2)))
    last = replicates.size - 1
    lows = np.sort(np.where(np.isfinite(replicates), replicates, bounds[0]))
    highs = np.sort(np.where(np.isfinite(replicates), replicates, bounds[1]))
    return Interval(
        value=value,
        low=float(lows[int(np.floor(tail * last))]),
        high=float(highs[int(np.ceil((1 - tail) * last))]),
        stderr=float(defined.std() * growth) if defined.size else np.nan,
    )


def unlike_bounds(value: float, n_problems: int, bounds: tuple[float, float]) -> Bounds:
    """How far a mean may lie from `value` when all `n_problems` problems had that value.

    With 95 % confidence at most a share p = 1 - 0.025^(1/n), about 3.7 / n, of all problems is unlike those seen
    (Clopper and Pearson 1934 at 0 of n, the two-sided rule of three), and each of those may have any value in
    `bounds`: [value - p (value - lowest), value + p (highest - value)]. At 0 or 1 with bounds (0, 1) this is exactly
    Clopper-Pearson on problems. NaN where the bounds are infinite.
    """
    if not np.isfinite(bounds).all():
        return Bounds(np.nan, np.nan)
    unlike = 1 - ((1 - LEVEL) / 2) ** (1 / n_problems)
    return Bounds(value - unlike * (value - bounds[0]), value + unlike * (bounds[1] - value))


def mean_interval(
    per_problem: Float[np.ndarray, " problem"],
    weights: Int[np.ndarray, "boot _problem"],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Mean over problems. `bounds` are the extremes a problem's value can take; (-inf, inf) for one that is no rate.

    `stderr` is s / sqrt(n) with s the sample standard deviation, so it does not depend on the resamples. Where more
    than half of the problems share one value and fewer than ten differ from it (199 of 200 solved), resamples
    understate what is unknown, so the interval also covers `unlike_bounds` and `stderr` is at least width / 3.92.
    """
    values = _checked(per_problem, bounds)
    value, n = float(values.mean()), values.size
    if n < 2:
        return Interval(value=value, low=np.nan, high=np.nan, stderr=np.nan)
    drawn = percentile_interval(value, resampled_means(values, weights), n, bounds=bounds)
    n_off = n - _most_common_count(values)
    stderr = float(values.std(ddof=1) / np.sqrt(n)) if n_off else np.nan
    if n_off >= FEW or 2 * n_off >= n:
        return Interval(value=value, low=drawn.low, high=drawn.high, stderr=stderr)
    low, high = unlike_bounds(value, n, bounds)
    low, high = float(np.fmin(low, drawn.low)), float(np.fmax(high, drawn.high))
    return Interval(value=value, low=low, high=high, stderr=float(np.fmax(stderr, (high - low) / (2 * Z))))


def difference_interval(
    arm: Float[np.ndarray, " _problem"],
    reference: Float[np.ndarray, " _problem"],
    weights: Int[np.ndarray, "boot _problem"],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Mean over problems of arm minus reference, paired by problem; `bounds` are those of either arm's values."""
    if arm.size != reference.size:
        raise EstimateError(
            f"an arm on {arm.size} problems cannot be paired with one on {reference.size}: "
            "run both on the same problems in the same order"
        )
    difference = _checked(arm, bounds) - _checked(reference, bounds)
    return mean_interval(difference, weights, bounds=(bounds[0] - bounds[1], bounds[1] - bounds[0]))


def _most_common_count(values: Float[np.ndarray, " problem"]) -> int:
    """How many problems share the most common value, up to rounding in its 12th digit."""
    scale = float(np.abs(values).max()) or 1.0
    return int(np.unique(np.round(values / scale, 12), return_counts=True)[1].max())


def _checked(values: Float[np.ndarray, " problem"], bounds: tuple[float, float]) -> Float[np.ndarray, " problem"]:
    """The values in double precision, or EstimateError where there are none, or one is not finite or out of bounds."""
    if values.size == 0:
        raise EstimateError("no problems came: a statistic needs at least one, and an interval two")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise EstimateError(f"the value of problem {index} is {values[index]}: leave it out of every arm, or mend it")
    slack = 1e-9 * max(1.0, float(np.abs(values).max()))
    if values.min() < bounds[0] - slack or values.max() > bounds[1] + slack:
        raise EstimateError(
            f"values from {values.min():g} to {values.max():g} leave the bounds {bounds}: "
            "give the right bounds, or (-inf, inf) for a quantity without any"
        )
    return values
