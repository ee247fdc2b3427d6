"""The one resampling of the project: problems are drawn with replacement, and every arm sees the same draws.

A study calls `resamples` once and hands the same weights to every statistic, so any two numbers of it are paired.
Samples of one problem are never resampled: they are a cluster, and their scatter is part of their problem's value.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, stdtrit

from lab.records.errors import EstimateError

LEVEL = 0.95
"""Confidence of every interval in the project."""
Z = 1.959963984540054
"""Normal quantile of (1 + LEVEL) / 2."""
FEW = 10
"""Below this many problems off the common value a percentile of resamples is not to be trusted (the n p > 10 rule)."""
MIN_BOOT = 100
"""Fewer resamples than this hold no 2.5 % tail; 2,000 or more are wanted for a reported number."""
CHUNK = 1024
"""Statistics of `ratio_intervals` whose resamples are in memory at once."""


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


@runtime_checkable
class Estimated(Protocol):
    """A number with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def interval_columns(found: Estimated, value: str = "value", ends: str = "") -> dict[str, object]:
    """The columns of an interval in a table: `value`, and `low` and `high` behind the prefix `ends`."""
    return {value: found.value, f"{ends}low": found.low, f"{ends}high": found.high}


class Intervals(NamedTuple):
    """Many statistics over the same problems, each with its 95 % interval; NaN where undefined."""

    value: Float[np.ndarray, " stat"]
    low: Float[np.ndarray, " stat"]
    high: Float[np.ndarray, " stat"]


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
    require_weights(per_problem.size, weights)
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
    alone, drawn = np.array([value]), replicates[:, None]
    low, high = (float(end[0]) for end in _percentile_ends(alone, drawn, n_problems, bounds))
    if _without_spread(alone, drawn)[0]:
        return Interval(value=value, low=low, high=high, stderr=(high - low) / (2 * Z))
    defined = replicates[np.isfinite(replicates)]
    stderr = float(defined.std() * _growth(n_problems)) if defined.size else np.nan
    return Interval(value=value, low=low, high=high, stderr=stderr)


def ratio_intervals(
    sums: Float[np.ndarray, "problem stat"],
    sizes: Int[np.ndarray, " problem"],
    weights: Int[np.ndarray, "boot _problem"],
) -> Intervals:
    """Means of many things at once over items that come in problems, such as texts or tokens; problems are resampled.

    `sums` are over the items of a problem, and `sizes` say how many it has, so a mean is a sum over problems divided by
    one. Each interval is the `percentile_interval` of that mean with no bounds: NaN with fewer than two problems, or
    where the mean is the same in every resample. Raises EstimateError for weights of another number of problems.
    """
    n_problems, n_stats = sums.shape
    require_weights(n_problems, weights)
    value = sums.sum(axis=0) / sizes.sum()
    drawn = weights.astype(np.float64)
    n_drawn = (drawn @ sizes)[:, None]
    low, high = np.full((2, n_stats), np.nan)
    for first in range(0, n_stats, CHUNK):
        chosen = slice(first, first + CHUNK)
        totals = drawn @ sums[:, chosen]
        means = np.divide(totals, n_drawn, out=np.full(totals.shape, np.nan), where=n_drawn > 0)
        low[chosen], high[chosen] = _percentile_ends(value[chosen], means, n_problems, (-np.inf, np.inf))
    return Intervals(value, low, high)


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


def _percentile_ends(
    values: Float[np.ndarray, " stat"],
    replicates: Float[np.ndarray, "boot stat"],
    n_problems: int,
    bounds: tuple[float, float],
) -> tuple[Float[np.ndarray, " stat"], Float[np.ndarray, " stat"]]:
    """Both ends of each statistic's interval, as `percentile_interval` defines them."""
    if n_problems < 2:
        return np.full_like(values, np.nan), np.full_like(values, np.nan)
    tail = float(ndtr(-_growth(n_problems) * stdtrit(n_problems - 1, (1 + LEVEL) / 2)))
    last, is_defined = len(replicates) - 1, np.isfinite(replicates)
    places = int(np.floor(tail * last)), int(np.ceil((1 - tail) * last))
    low, high = (
        np.partition(np.where(is_defined, replicates, worst), place, axis=0)[place]
        for worst, place in zip(bounds, places, strict=True)
    )
    for stat in np.flatnonzero(_without_spread(values, replicates)):
        low[stat], high[stat] = unlike_bounds(float(values[stat]), n_problems, bounds)
    return low, high


def _growth(n_problems: int) -> float:
    """By how much a percentile interval is too narrow."""
    return np.sqrt(n_problems / (n_problems - 1))


def _without_spread(
    values: Float[np.ndarray, " stat"], replicates: Float[np.ndarray, "boot stat"]
) -> Bool[np.ndarray, " stat"]:
    """Which statistics are the same, up to rounding, in all resamples where they are defined, at least one."""
    is_defined = np.isfinite(replicates)
    most = replicates.max(axis=0, initial=-np.inf, where=is_defined)
    least = replicates.min(axis=0, initial=np.inf, where=is_defined)
    return is_defined.any(axis=0) & (most - least <= 1e-12 * np.fmax(1.0, np.abs(values)))


def require_weights(n_problems: int, weights: Int[np.ndarray, "boot _problem"]) -> None:
    """EstimateError where `weights` are of another number of problems."""
    if weights.shape[1] != n_problems:
        raise EstimateError(
            f"{n_problems} problems came with weights for {weights.shape[1]}: "
            "make the weights with resamples(n_problems, ...) for the same problems in the same order"
        )


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
