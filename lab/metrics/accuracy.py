"""What verdicts say of a set of problems: accuracy, pass@k and Cover@tau. One array per verdict (strict, answer only).

pass@k is the chance that at least one of k samples of a problem is right, unbiased from n >= k samples; Cover@tau the
share of problems of which at least a share tau of the samples is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.metrics.bootstrap import Interval, mean_interval
from lab.records.errors import EstimateError


def problem_accuracies(verdicts: Bool[np.ndarray, "problem sample"]) -> Float[np.ndarray, " problem"]:
    """Share of accepted samples of each problem, in [0, 1]."""
    if verdicts.shape[1] == 0:
        raise EstimateError("no samples came: accuracy needs at least one sample a problem")
    return verdicts.mean(axis=1, dtype=np.float64)


def accuracy(verdicts: Bool[np.ndarray, "problem sample"], weights: Int[np.ndarray, "boot _problem"]) -> Interval:
    """Mean accuracy over problems, which is pass@1, in [0, 1]; every problem counts the same."""
    return mean_interval(problem_accuracies(verdicts), weights)


def accuracy_by_family(
    verdicts: Bool[np.ndarray, "problem sample"],
    families: Sequence[str],
    weights: Int[np.ndarray, "boot _problem"],
) -> dict[str, Interval]:
    """Accuracy in each family, in the order of their names, on the same resamples as the whole.

    The number of a family's problems varies between resamples (domain estimation); one without any counts as the worst
    on either side, so a family of three problems gets the wide interval it deserves.
    """
    if len(families) != len(verdicts) or weights.shape[1] != len(verdicts):
        raise EstimateError(
            f"{len(verdicts)} problems came with {len(families)} families and weights for {weights.shape[1]}: "
            "give one family a problem and the weights of the same problems"
        )
    names = np.asarray(families)
    return {str(name): accuracy(verdicts[names == name], weights[:, names == name]) for name in sorted(set(families))}


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    """One point of a pass@k curve."""

    k: int
    """Samples allowed for a problem."""
    interval: Interval
    """Mean pass@k over problems, in [0, 1]."""


def problem_pass_at_k(
    n_samples: Int[np.ndarray, " problem"], n_correct: Int[np.ndarray, " problem"], k: int
) -> Float[np.ndarray, " problem"]:
    """Unbiased pass@k of each problem: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1).

    n = `n_samples`, c = `n_correct`; NaN for a problem with n < k. Departure: the ratio is the product over
    i = n - m + 1 .. n of 1 - M / i, with m = min(c, k) and M = max(c, k) (the two are interchangeable in it), summed as
    log1p and closed by expm1, so a small result keeps its digits at any n.
    """
    if k < 1:
        raise EstimateError(f"pass@{k} is not defined: ask k >= 1")
    if ((n_correct < 0) | (n_correct > n_samples)).any():
        index = int(np.flatnonzero((n_correct < 0) | (n_correct > n_samples))[0])
        raise EstimateError(f"problem {index} has {n_correct[index]} correct of {n_samples[index]} samples")
    counts, where = np.unique(np.stack([n_samples, n_correct], axis=1), axis=0, return_inverse=True)
    estimates = np.array([_pass_at_k(int(n), int(c), k) for n, c in counts], dtype=np.float64)
    return estimates[where.ravel()]


def pass_at_k_curve(
    verdicts: Bool[np.ndarray, "problem sample"], ks: Sequence[int], weights: Int[np.ndarray, "boot _problem"]
) -> tuple[PassAtK, ...]:
    """Mean pass@k over problems for each k; k above the number of samples is an EstimateError, never an extrapolation.

    Near k = n the estimate hangs on single samples; draw n >= 4 k.
    """
    n_problems, n = verdicts.shape
    if n_problems == 0:
        raise EstimateError("no problems came: a pass@k curve needs at least one")
    for k in ks:
        if k > n:
            raise EstimateError(f"k = {k} but only {n} samples a problem: draw more samples or ask k <= {n}")
    n_correct = verdicts.sum(axis=1, dtype=np.int64)
    n_samples = np.full(n_problems, n, dtype=np.int64)
    return tuple(PassAtK(k=k, interval=mean_interval(problem_pass_at_k(n_samples, n_correct, k), weights)) for k in ks)


def _pass_at_k(n: int, c: int, k: int) -> float:
    if n < k:
        return float("nan")
    if c > n - k:
        return 1.0
    fewer, more = min(c, k), max(c, k)
    return float(-np.expm1(np.log1p(-more / np.arange(n - fewer + 1, n + 1, dtype=np.float64)).sum()))


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
