"""E3, KL split: how much of the divergence between the models is choosing successes among what the base would write."""

from functools import partial
from math import inf, nan
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from elicitation.estimators.base_success import NO_SCORES, base_rates, judged_scores
from elicitation.estimators.estimate import ESTIMATES, Analysis, estimate, gap_refusal, problem_ids, problem_weights
from lab.metrics.bootstrap import Interval, mean_interval, percentile_interval
from lab.records.errors import EstimateError
from lab.scoring.evidence import Evidence, Role

QUANTITIES = (
    "KL of tuned from base",
    "filtering",
    "mode change",
    "waste",
    "KL, summed token by token",
    "parts minus token-by-token total",
)
"""Parts of a `Split`, and what its check is called."""
SHARE = "filtering share of the KL"


class Split(NamedTuple):
    """The divergence of the tuned model from the base on each problem, in nats."""

    total: Float[np.ndarray, " problem"]
    """KL(tuned || base) of whole completions: mean log-ratio over the tuned model's samples."""
    filtering: Float[np.ndarray, " problem"]
    """d(p1 || p0): the least divergence that any policy with success p1 has from the base."""
    mode_change: Float[np.ndarray, " problem"]
    """p1 times the divergence of the tuned model's successes from the base's."""
    waste: Float[np.ndarray, " problem"]
    """(1 - p1) times the divergence of the tuned model's failures from the base's."""
    token_by_token: Float[np.ndarray, " problem"]
    """The total again: mean over the tuned model's samples of their tokens' divergences, summed."""


def kl_split(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` rows of E3: means over problems of the parts of `split`, and the filtering share of the whole.

    The three parts add up to the sampled total by algebra, whatever p0 is, so that they do checks nothing. The check is
    the row "parts minus token-by-token total": log-ratios against next-token distributions, two measurements with
    one expectation; its interval must include 0.

    The share is mean filtering over mean total, a ratio of means over problems with a percentile interval. Unlike the
    other estimators' shares it is no part of the gain, but it is refused where theirs are: where the gain is within
    five standard errors of none; and where the total is not positive. Near 1, the tuned model does what the best filter
    of base samples would; it may pass 1 where mode change or waste is estimated below 0.

    Rows are refused without scores. Raises EstimateError where a problem has no scored sample of the tuned model.
    """
    row = partial(estimate, "E3")
    if evidence.scores.is_empty():
        rows = [row(quantity, "nats", None, NO_SCORES) for quantity in QUANTITIES]
        return ESTIMATES.frame([*rows, row(SHARE, "share", None, NO_SCORES)])
    weights = problem_weights(evidence, analysis)
    parts = split(evidence)
    difference = parts.filtering + parts.mode_change + parts.waste - parts.token_by_token
    refusal = gap_refusal(evidence, analysis)
    mean_total = float(parts.total.mean())
    if refusal is None and mean_total <= 0:
        refusal = f"the divergence to be shared is estimated as {mean_total:.3g} nats: score more samples"
    rows = [
        row(quantity, "nats", mean_interval(per_problem, weights, bounds=(-inf, inf)))
        for quantity, per_problem in zip(QUANTITIES, (*parts, difference), strict=True)
    ]
    share = None if refusal else _ratio(parts.filtering, parts.total, weights)
    return ESTIMATES.frame([*rows, row(SHARE, "share", share, refusal)])


def split(evidence: Evidence) -> Split:
    """The chain rule of divergence over "is it a strict success", on each problem in the order of `problem_ids`.

    KL(pi1 || pi0) = d(p1 || p0) + p1 KL(pi1(. | success) || pi0(. | success)) + (1 - p1) KL(the same for failures)
    (Cover and Thomas, Elements of Information Theory, theorem 2.5.3), d the binary divergence. From the tuned model's
    scored samples: p1 their success rate, L_c and L_w the mean of ln pi1(y) - ln pi0(y) over successes and failures;
    p0 from `base_rates`. Then mode change is p1 (L_c - ln(p1 / p0)) and waste (1 - p1) (L_w - ln((1 - p1) / (1 - p0)));
    a part with p1 = 0 or 1 - p1 = 0 in front is 0.

    Total and token-by-token total are unbiased. The parts are not, with few samples: d is convex in p1 and in p0, so
    noise in either raises it (taken one at a time: by about 1 / (2 n) nats from n tuned samples at 0 < p1 < 1, by about
    p1 var(p0) / (2 p0^2) for a small p0) and lowers mode change and waste together by as much. They may come out below
    0. Where a problem that can succeed does not in n samples, its mode change is 0 and its divergence is called waste.

    Raises EstimateError where a problem has no scored sample of the tuned model.
    """
    problems = problem_ids(evidence)
    base = base_rates(evidence, problems)
    ratio = pl.col("logp_tuned") - pl.col("logp_base")
    mine = (
        judged_scores(evidence)
        .filter(pl.col("writer") == Role.TUNED)
        .group_by("problem_id", maintain_order=True)
        .agg(
            total=ratio.mean(),
            p1=pl.col("strict").mean(),
            of_right=ratio.filter(pl.col("strict")).mean().fill_null(0.0),
            of_wrong=ratio.filter(~pl.col("strict")).mean().fill_null(0.0),
            token_by_token=pl.col("token_kl").mean(),
        )
    )
    if missing := sorted({*problems} - {*mine["problem_id"]}):
        raise EstimateError(
            f"no scores of the tuned model's samples on problem {missing[0]!r} (and {len(missing) - 1} more): "
            "score some samples of every problem"
        )
    total, p1, of_right, of_wrong, token_by_token = (mine[name].to_numpy() for name in mine.columns[1:])
    right, wrong = p1 > 0, p1 < 1
    # ln(p1 / p0) and ln((1 - p1) / (1 - p0)); 0 where it is not asked for, being multiplied by 0.
    lift = np.where(right, np.log(np.where(right, p1, 1.0)) - np.where(right, base.log_p0, 0.0), 0.0)
    drop = np.where(wrong, np.log1p(-np.where(wrong, p1, 0.0)) - np.where(wrong, base.log_rest, 0.0), 0.0)
    return Split(
        total=total,
        filtering=p1 * lift + (1 - p1) * drop,
        mode_change=p1 * (of_right - lift),
        waste=(1 - p1) * (of_wrong - drop),
        token_by_token=token_by_token,
    )


def _ratio(
    part: Float[np.ndarray, " problem"], total: Float[np.ndarray, " problem"], weights: Int[np.ndarray, "boot _problem"]
) -> Interval:
    """Ratio of means over problems; a resample whose total is not positive counts as the worst on either side."""
    drawn = weights.astype(np.float64)
    bottoms = drawn @ total
    replicates = np.divide(drawn @ part, bottoms, out=np.full(bottoms.size, nan), where=bottoms > 0)
    return percentile_interval(float(part.mean() / total.mean()), replicates, total.size)
