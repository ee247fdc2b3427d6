"""E2, base success: how often the base model would succeed, also where that is too rare to be seen in its samples."""

from collections.abc import Sequence
from functools import partial
from math import inf, nan
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.estimators.estimate import (
    ESTIMATES,
    Analysis,
    Unit,
    estimate,
    loss_refusal,
    problem_ids,
    problem_weights,
    tries,
)
from lab.metrics.accuracy import elicited_share
from lab.metrics.bootstrap import Interval, mean_interval, percentile_interval
from lab.records.errors import EstimateError
from lab.scoring.evidence import ArmKey, Evidence, Role, arm_of

SUCCESSES = 4
"""PassUntil stops at this many successes of a problem."""
FEWEST_FOR_A_MEDIAN = 6
"""From this many problems on, the smallest and the largest value enclose the median with 95 % (the sign test)."""
SCORED: dict[str, Unit] = {
    "base success, importance sampled": "probability",
    "effective sample size": "samples",
    "bits of selection": "bits",
    "base-equivalent budget k*": "samples",
    "gain within the base's reach": "share",
}
"""What is estimated from scores -> its unit."""
NO_SCORES = "no scores: both models must read samples that were drawn at temperature 1 without top-p"


class BaseRates(NamedTuple):
    """The base model's success on each problem, as `base_rates` estimates it."""

    p0: Float[np.ndarray, " problem"]
    """Probability of a strict success at temperature 1, in [0, 1]; 0 where no scored sample is one."""
    log_p0: Float[np.ndarray, " problem"]
    """Nats: ln p0, with its digits also where p0 itself is too small for a double; -inf where there is no success."""
    log_rest: Float[np.ndarray, " problem"]
    """Nats: ln(1 - p0); -inf only where p0 = 1, and then no scored sample is a failure."""
    ess: Float[np.ndarray, " problem"]
    """Samples: (sum w)^2 / sum w^2 over the successes; NaN where there is none."""


def base_success(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` rows of E2.

    Base success by importance sampling (`base_rates`), by counting, and by PassUntil (`pass_until`), each a mean over
    problems. Bits of selection, log2(p1 / p0): mean over the problems where both are positive, p1 the tuned model's
    counted success. Base-equivalent budget, k* = ln(1 - p1) / ln(1 - p0): base samples among which one succeeds as
    often as a single tuned sample does; the median over problems with a positive counted gain, infinite where p0 = 0.
    In k*, p1 is (c + 1/2) / (n + 1) for c successes of n: a perfect score would make it infinite. The median is taken
    of 1 / k*, so between two middle problems it is their harmonic mean. The share: the part of the counted gain on
    problems with k* <= `analysis.reach`, with its sign; a part of the gain may be within reach on a problem where all
    of it is not, and then none counts.

    Intervals are over problems, whose scatter includes that of their samples. Where only the first samples of a problem
    are scored, p0 rests on those and p1 on all, so p0 = 0 there may mean only that no success was scored: score all.

    Rows that need scores are refused without any. Raises EstimateError where an arm is missing, or a problem's scores.
    """
    problems, weights = problem_ids(evidence), problem_weights(evidence, analysis)
    base_tries, tuned_tries = tries(evidence, Role.BASE), tries(evidence, Role.TUNED)
    base, tuned = (np.array([won.mean() for won in arm]) for arm in (base_tries, tuned_tries))
    until = np.array([pass_until(won) for won in base_tries])
    row = partial(estimate, "E2")
    counted = [
        row("base success, counted", "probability", mean_interval(base, weights)),
        row("base success, PassUntil", "probability", mean_interval(until, weights)),
    ]
    if evidence.scores.is_empty():
        return ESTIMATES.frame([*counted, *(row(quantity, unit, None, NO_SCORES) for quantity, unit in SCORED.items())])
    found = base_rates(evidence, problems)
    seen, gained = np.isfinite(found.log_p0), tuned > base
    both = seen & (tuned > 0)
    bits = (np.log(tuned[both]) - found.log_p0[both]) / np.log(2)
    # 1 / k* is 0 where p0 = 0, inf where p0 = 1.
    shrunk = np.array([(won.sum() + 0.5) / (won.size + 1) for won in tuned_tries])
    speed = found.log_rest / np.log1p(-shrunk)
    within = elicited_share(np.where(speed * analysis.reach >= 1, tuned, base), base, tuned, weights)
    no_success = None if seen.any() else "no scored sample of either model is a strict success"
    no_bits = None if both.any() else "on no problem are both models' success rates above 0"
    no_gain = None if gained.any() else "the tuned model is better on no problem"
    answers = (
        (mean_interval(found.p0, weights), None),
        (None if no_success else _median(found.ess[seen], weights[:, seen]), no_success),
        (None if no_bits else mean_interval(bits, weights[:, both], bounds=(-inf, inf)), no_bits),
        (None if no_gain else _inverted(_median(speed[gained], weights[:, gained])), no_gain),
        (within, loss_refusal(within)),
    )
    named = zip(SCORED.items(), answers, strict=True)
    return ESTIMATES.frame([*counted, *(row(*quantity, *answer) for quantity, answer in named)])


def base_rates(evidence: Evidence, problems: Sequence[str]) -> BaseRates:
    """Base success on each of `problems`, in their order, from all their scored samples, whoever wrote them.

    Multiple importance sampling with the balance heuristic (Veach and Guibas 1995, SIGGRAPH, equation 14): of n0 base
    and n1 tuned samples of a problem, y counts w(y) = pi0(y) / (n0 pi0(y) + n1 pi1(y)), and W = sum of w over the
    strict successes is unbiased. w <= 1 / n0, however far the models are apart. n1 = 0 is counting; n0 = 0 is plain
    importance sampling, which is blind to successes that the tuned model never writes. Both probabilities are those of
    the completion at temperature 1 without top-p. All in logs.

    Departure: where W reaches 1 it is divided by the sum of w over all samples, so p0 <= 1, and < 1 where a failure
    was seen. The effective sample size is that of the successes; below about ten, p0 hangs on single samples.

    Raises EstimateError where a problem has no scored sample, or the scores do not fit the verdicts.
    """
    judged = judged_scores(evidence)
    place = {problem: index for index, problem in enumerate(problems)}
    judged = judged.filter(pl.col("problem_id").is_in(list(place)))
    if missing := sorted({*place} - {*judged["problem_id"]}):
        raise EstimateError(
            f"no scores of problem {missing[0]!r} (and {len(missing) - 1} more): score some samples of every problem"
        )
    where = np.array([place[problem] for problem in judged["problem_id"]], dtype=np.int64)
    by_tuned = (judged["writer"] == Role.TUNED).to_numpy()
    success = judged["strict"].to_numpy()
    with np.errstate(divide="ignore"):  # the log of no samples is -inf, which logaddexp takes
        log_n0 = np.log(np.bincount(where[~by_tuned], minlength=len(place)))
        log_n1 = np.log(np.bincount(where[by_tuned], minlength=len(place)))
    excess = (judged["logp_tuned"] - judged["logp_base"]).to_numpy()
    log_w = -np.logaddexp(log_n0[where], log_n1[where] + excess)
    log_right = _log_sums(log_w[success], where[success], len(place))
    log_wrong = _log_sums(log_w[~success], where[~success], len(place))
    log_squares = _log_sums(2 * log_w[success], where[success], len(place))
    over = np.exp(np.minimum(log_right, 0.0)) >= 1
    log_all = np.logaddexp(log_right, np.where(over, log_wrong, -inf), where=over, out=np.zeros(len(place)))
    log_p0 = log_right - log_all
    with np.errstate(divide="ignore"):  # p0 = 1
        log_rest = np.where(over, log_wrong - log_all, np.log1p(-np.where(over, 0.0, np.exp(log_p0))))
    seen = np.isfinite(log_right)
    ess = np.exp(np.where(seen, 2 * log_right, nan) - np.where(seen, log_squares, nan))
    return BaseRates(p0=np.exp(log_p0), log_p0=log_p0, log_rest=log_rest, ess=ess)


def judged_scores(evidence: Evidence) -> pl.DataFrame:
    """`SCORES` with the column `strict` of the same samples, by problem, writer and sample.

    Raises EstimateError where a score has no verdict or more than one, a writer is neither model, or a log-probability
    is none.
    """
    writers = {arm: role for role in (Role.BASE, Role.TUNED) if (arm := arm_of(evidence, ArmKey(role))) is not None}
    verdicts = evidence.verdicts.filter(pl.col("arm").is_in(writers)).select(
        pl.col("arm").replace_strict(writers, return_dtype=pl.String).alias("writer"),
        "problem_id",
        "sample_index",
        "strict",
    )
    scores = evidence.scores
    if strangers := sorted({*scores["writer"]} - {Role.BASE, Role.TUNED}):
        raise EstimateError(f"scores of a sample that {strangers[0]!r} wrote: score samples of base and tuned only")
    for model in ("logp_base", "logp_tuned"):
        # Sums of log-softmaxes may pass 0 by rounding.
        odd = scores.filter(~(pl.col(model).is_finite() & (pl.col(model) < 1e-3)).fill_null(value=False))
        if not odd.is_empty():
            writer, problem, sample = odd.select("writer", "problem_id", "sample_index").row(0)
            raise EstimateError(
                f"{model} of sample {sample} of problem {problem!r} by {writer} is {odd[model][0]}: "
                "a finite log-probability was wanted, at temperature 1 without top-p"
            )
    keys = ["problem_id", "writer", "sample_index"]
    judged = scores.join(verdicts, on=keys, how="inner").sort(keys)
    if judged.height != scores.height or judged.select(keys).n_unique() != judged.height:
        raise EstimateError(
            f"{scores.height} scores met {judged.height} verdicts of the same samples: "
            "give each scored sample one verdict, under the arm of its writer"
        )
    return judged


def pass_until(won: Bool[np.ndarray, " sample"]) -> float:
    """Success rate, in [0, 1], from tries that end at the fourth success or run out: unbiased.

    (r - 1) / (K - 1) where success r = `SUCCESSES` comes at try K, else c / n (Girshick, Mosteller and Savage 1946,
    Ann. Math. Stat. 17:13: paths to the end point that begin with a success, over all paths to it). The first is
    PassUntil of Hu et al. (arXiv 2310.03262), who go on without end; stopping at n is our departure. r / K is biased.
    Tries after K are not used, so counting all n is more precise: the two should agree.
    """
    successes = np.flatnonzero(won)
    if successes.size < SUCCESSES:
        return successes.size / won.size
    return (SUCCESSES - 1) / float(successes[SUCCESSES - 1])


def _log_sums(
    logs: Float[np.ndarray, " sample"], where: Int[np.ndarray, " sample"], n_problems: int
) -> Float[np.ndarray, " problem"]:
    """ln of the sum of exp(logs) on each problem; -inf on one without any."""
    sums = np.full(n_problems, -inf)
    np.logaddexp.at(sums, where, logs)
    return sums


def _median(values: Float[np.ndarray, " problem"], weights: Int[np.ndarray, "boot _problem"]) -> Interval:
    """Median over problems, and its interval from the medians of the resamples.

    Where these all agree the interval is the one value, from six problems on; below, it is NaN.
    """
    order = np.argsort(values, kind="stable")
    ranked, cumulated = values[order], weights[:, order].cumsum(axis=1)
    totals = cumulated[:, -1]
    below, above = ((cumulated > half[:, None]).argmax(axis=1) for half in ((totals - 1) // 2, totals // 2))
    replicates = np.where(totals > 0, (ranked[below] + ranked[above]) / 2, nan)
    value = float(np.median(values))
    if (replicates == value).all():
        end = value if values.size >= FEWEST_FOR_A_MEDIAN else nan
        return Interval(value=value, low=end, high=end, stderr=nan)
    return percentile_interval(value, replicates, values.size, bounds=(0.0, inf))


def _inverted(interval: Interval) -> Interval:
    """The interval of 1 / x, with 1 / 0 = inf."""
    value, low, high = (inf if end == 0 else 1 / end for end in (interval.value, interval.high, interval.low))
    return Interval(value=value, low=low, high=high, stderr=nan)
