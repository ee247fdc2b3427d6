"""What verdicts say of a set of problems: accuracy, pass@k and Cover@tau. One array per verdict (strict, answer only).

pass@k is the chance that at least one of k samples of a problem is right, unbiased from n >= k samples; Cover@tau the
share of problems of which at least a share tau of the samples is right.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from lab.metrics.bootstrap import (
    LEVEL,
    Bounds,
    Interval,
    difference_interval,
    mean_interval,
    percentile_interval,
    require_weights,
    resampled_means,
)
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
    verdicts: Bool[np.ndarray, "problem sample"], families: Sequence[str], weights: Int[np.ndarray, "boot _problem"]
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
) -> dict[int, Interval]:
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
    return {k: mean_interval(problem_pass_at_k(n_samples, n_correct, k), weights) for k in ks}


def _pass_at_k(n: int, c: int, k: int) -> float:
    if n < k:
        return float("nan")
    if c > n - k:
        return 1.0
    fewer, more = min(c, k), max(c, k)
    return float(-np.expm1(np.log1p(-more / np.arange(n - fewer + 1, n + 1, dtype=np.float64)).sum()))


def covered(rates: Float[np.ndarray, " problem"], tau: float) -> Bool[np.ndarray, " problem"]:
    """Whether each problem's success rate, in [0, 1], is at least `tau`, up to 1e-9 (so 3 of 10 reaches 3 * 0.1)."""
    if not 0 <= tau <= 1:
        raise EstimateError(f"Cover@{tau} is not defined: ask tau in [0, 1]")
    if not (np.isfinite(rates) & (rates >= 0) & (rates <= 1)).all():
        raise EstimateError("success rates must lie in [0, 1]: take them from problem_accuracies")
    return rates >= tau - 1e-9


def cover_curve(
    rates: Float[np.ndarray, " problem"], taus: Sequence[float], weights: Int[np.ndarray, "boot _problem"]
) -> dict[float, Interval]:
    """Cover@tau, in [0, 1], for each tau (Dragoi et al., arXiv 2510.08325): mean over problems of [rate >= tau].

    `rates` are plug-in success rates c / n, whose sampling noise blurs the curve by about sqrt(tau (1 - tau) / n); the
    interval covers the choice of problems, not that blur, so compare arms at the same n. It is one curve with pass@k:
    the integral over t in [0, 1] of k (1 - t)^(k - 1) Cover@t is the plug-in pass@k, mean of 1 - (1 - c / n)^k.
    """
    return {tau: mean_interval(covered(rates, tau).astype(np.float64), weights) for tau in taus}


def guess_floor(
    answers: Sequence[Sequence[str | None]],
    golds: Sequence[str],
    weights: Int[np.ndarray, "boot _problem"],
    *,
    same: Callable[[str, str], bool] = operator.eq,
) -> Interval:
    """Expected accuracy when answers are shuffled among problems, none keeping its own: in [0, 1].

    `answers[i]` are the extracted answers of problem i's samples (None where none could be read: never right),
    `golds[j]` its gold answer, `same(answer, gold)` the task's answer equality (plain string equality unless given).
    With M[i, j] = share of problem i's samples equal to gold j, the value is the mean of M over all pairs i != j: the
    exact expectation over permutations without fixed points, with no shuffling noise; problems count the same.
    It needs golds that differ: where all are equal, guessing and solving cannot be told apart.

    The value is a U-statistic of order two. The interval resamples problems as everywhere else and weighs pair (i, j)
    by w_i w_j, i != j: copies of one problem in a resample are never paired, or true accuracy would leak in. If
    answers and golds are both uniform the statistic is degenerate and this interval is too wide, never too narrow.
    """
    matches = match_shares(answers, golds, same=same)
    n_problems = len(golds)
    if n_problems < 2:
        raise EstimateError(
            "the guess floor compares answers with the golds of other problems: give at least two problems"
        )
    require_weights(n_problems, weights)
    np.fill_diagonal(matches, 0.0)
    value = float(matches.sum()) / (n_problems * (n_problems - 1))
    drawn = weights.astype(np.float64)
    sums = ((drawn @ matches) * drawn).sum(axis=1)
    pairs = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    replicates = np.divide(sums, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return percentile_interval(value, replicates, n_problems, bounds=(0.0, 1.0))


def match_shares(
    answers: Sequence[Sequence[str | None]], golds: Sequence[str], *, same: Callable[[str, str], bool] = operator.eq
) -> Float[np.ndarray, "problem problem"]:
    """M[i, j]: the share of problem i's samples whose answer equals problem j's gold; the diagonal is the accuracy."""
    if len(answers) != len(golds):
        raise EstimateError(f"answers of {len(answers)} problems came with {len(golds)} golds: give one gold a problem")
    if empty := [index for index, given in enumerate(answers) if not given]:
        raise EstimateError(
            f"problem {empty[0]} has no samples: give at least one answer (None if unreadable) a problem"
        )
    texts = sorted({text for given in answers for text in given if text is not None})
    gold_texts = sorted(set(golds))
    equal = np.array([[same(text, gold) for gold in gold_texts] for text in texts], dtype=np.float64)
    equal = equal.reshape(len(texts), len(gold_texts))
    row = {text: index for index, text in enumerate(texts)}
    shares = np.zeros((len(answers), len(texts)))
    for index, given in enumerate(answers):
        for text in given:
            if text is not None:
                shares[index, row[text]] += 1 / len(given)
    column = {gold: index for index, gold in enumerate(gold_texts)}
    return (shares @ equal)[:, [column[gold] for gold in golds]]


REFUSAL_STDERRS = 5.0
"""A gap of fewer standard errors than this is refused: its ratio's interval would run over several gaps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """(arm - base) / (tuned - base) with its 95 % intervals; all but the gap are NaN when refused."""

    value: float = math.nan
    """0 for the base, 1 for the tuned model; may leave [0, 1] on either side and is never clipped."""
    low: float = math.nan
    """Lower end by Fieller: the headline."""
    high: float = math.nan
    """Upper end by Fieller."""
    bootstrap_low: float = math.nan
    """Lower end by the problem bootstrap; NaN where the resamples have no spread."""
    bootstrap_high: float = math.nan
    """Upper end by the problem bootstrap."""
    gap: float
    """Mean of tuned - base over problems, in the unit of the inputs; negative where tuning made the model worse."""
    gap_stderr: float
    """Its standard error, paired by problem; NaN with one problem."""
    refusal: str | None = None
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
        return Share(gap=gap.value, gap_stderr=gap.stderr, refusal=refusal)
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
    `elicited_share` is (hybrid - base) / (tuned - base), unclipped, with an interval and a refusal.
    """
    if tuned == base:
        return math.nan
    return max(0.0, (hybrid - min(base, tuned)) / abs(tuned - base))
