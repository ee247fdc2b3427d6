"""Cover@tau: the share of problems a model solves at least a share tau of the time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.errors import EstimateError
from lab.metrics.bootstrap import Interval, mean_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Cover:
    """One point of a Cover@tau curve."""

    tau: float
    """Success rate asked of a problem, in [0, 1]."""
    interval: Interval
    """Share of problems that reach it, in [0, 1]."""


def covered(rates: Float[np.ndarray, " problem"], tau: float) -> Bool[np.ndarray, " problem"]:
    """Whether each problem's success rate, in [0, 1], is at least `tau`, up to 1e-9 (so 3 of 10 reaches 3 * 0.1)."""
    if not 0 <= tau <= 1:
        raise EstimateError(f"Cover@{tau} is not defined: ask tau in [0, 1]")
    if not (np.isfinite(rates) & (rates >= 0) & (rates <= 1)).all():
        raise EstimateError("success rates must lie in [0, 1]: take them from problem_accuracies")
    return rates >= tau - 1e-9


def cover_curve(
    rates: Float[np.ndarray, " problem"], taus: Sequence[float], weights: Int[np.ndarray, "boot _problem"]
) -> tuple[Cover, ...]:
    """Cover@tau for each tau (Dragoi et al., arXiv 2510.08325): mean over problems of [rate >= tau].

    `rates` are plug-in success rates c / n, whose sampling noise blurs the curve by about sqrt(tau (1 - tau) / n); the
    interval covers the choice of problems, not that blur, so compare arms at the same n. It is one curve with pass@k:
    the integral over t in [0, 1] of k (1 - t)^(k - 1) Cover@t is the plug-in pass@k, mean of 1 - (1 - c / n)^k.
    """
    return tuple(
        Cover(tau=tau, interval=mean_interval(covered(rates, tau).astype(np.float64), weights)) for tau in taus
    )
