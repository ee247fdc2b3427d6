"""E1, coverage: which problems each model solves when it is sampled, and how much of the gain lies where the base does.

It counts and reads no probabilities. A base success rarer than its samples can show counts as none: the row
`detectability floor` says how rare that is.
"""

from functools import partial
from math import log, nan

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Shaped

from elicitation.estimators.estimate import ESTIMATES, Analysis, estimate, loss_refusal, problem_weights, tries
from lab.metrics.accuracy import cover_curve, elicited_share, problem_pass_at_k
from lab.metrics.bootstrap import Interval, difference_interval, mean_interval, percentile_interval
from lab.scoring.evidence import Evidence, Role

SAMPLES_PER_TRY = 4
"""pass@k is asked only where every problem has this many samples a try: near k = n it hangs on single samples."""
TAU = 0.5
"""Success rate that Cover@tau asks of a problem: solved more often than not."""
MISS = 0.05
"""Chance that a success rate at the detectability floor shows no success."""
_row = partial(estimate, "E1")


def coverage(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` rows of E1, from strict verdicts of base and tuned model; no other table is read.

    pass@1, pass@k (Chen et al., arXiv 2107.03374) at the largest power of two k with at least `SAMPLES_PER_TRY` * k
    samples of every problem by either arm, and Cover@0.5 (Dragoi et al., arXiv 2510.08325).

    The sets of Wu et al. (arXiv 2507.14843): P solved by both, E by the tuned model only, S by the base only, solved
    being one strict success among the first m samples, m the same for both. SRR = P / (P + S), NDR = E / (P + E), SDS
    their harmonic mean, NSCR = (E - S) / (P + E + S), and the floor -ln(0.05) / m: a success rate that m samples miss
    with chance 0.05. Departures: strict verdicts, one m for both arms, intervals, and a refusal where they divide by 0.

    The share: tuned minus base success on problems where the base has a strict success in any of its samples, over
    tuned minus base success on all of them. Losses count with their sign. A share of problems, not of samples: on a
    problem that the base solves once, all of the gain counts. It is low where successes are rarer than the floor.

    Raises EstimateError where one of the two arms is missing.
    """
    weights = problem_weights(evidence, analysis)
    models = {"base": tries(evidence, Role.BASE), "tuned": tries(evidence, Role.TUNED)}
    rates = {name: np.array([won.mean() for won in samples]) for name, samples in models.items()}
    m = min(won.size for samples in models.values() for won in samples)
    floor = -log(MISS) / m
    # base + (tuned - base) * [the base solves it]
    arm = np.where(rates["base"] > 0, rates["tuned"], rates["base"])
    solved = elicited_share(arm, rates["base"], rates["tuned"], weights)
    # It depends on the number of samples alone.
    exact = Interval(value=floor, low=floor, high=floor, stderr=nan)
    once = {name: mean_interval(of, weights) for name, of in rates.items()}
    covers = {name: cover_curve(of, (TAU,), weights)[TAU] for name, of in rates.items()}
    base_solves, tuned_solves = (np.array([won[:m].any() for won in samples]) for samples in models.values())
    rows = [
        *(_row(f"strict pass@1, {name}", "probability", interval) for name, interval in once.items()),
        *_pass_at_k_rows(models["base"], models["tuned"], m, weights),
        *(_row(f"Cover@{TAU}, {name}", "problems", interval) for name, interval in covers.items()),
        *_solved_set_rows(base_solves, tuned_solves, m, weights),
        _row("detectability floor", "probability", exact),
        _row("gain on problems the base solves when sampled", "share", solved, loss_refusal(solved)),
    ]
    return ESTIMATES.frame(rows)


def _pass_at_k_rows(
    base: list[Bool[np.ndarray, " _sample"]],
    tuned: list[Bool[np.ndarray, " _sample"]],
    m: int,
    weights: Int[np.ndarray, "boot problem"],
) -> list[dict[str, object]]:
    """Three rows at one k; refused where only k = 1, which has its own rows, would be allowed."""
    k = max(2, 1 << max((m // SAMPLES_PER_TRY).bit_length() - 1, 0))
    names = f"strict pass@{k}, base", f"strict pass@{k}, tuned", f"tuned minus base, pass@{k}"
    units = "probability", "probability", "points"
    if m < SAMPLES_PER_TRY * k:
        refusal = f"pass@{k} wants {SAMPLES_PER_TRY * k} samples a problem, and one arm has {m}: draw more"
        return [_row(name, unit, None, refusal) for name, unit in zip(names, units, strict=True)]
    low, high = (
        problem_pass_at_k(np.array([won.size for won in samples]), np.array([won.sum() for won in samples]), k)
        for samples in (base, tuned)
    )
    found = mean_interval(low, weights), mean_interval(high, weights), difference_interval(high, low, weights)
    return [_row(name, unit, interval) for name, unit, interval in zip(names, units, found, strict=True)]


def _solved_set_rows(
    base: Bool[np.ndarray, " problem"],
    tuned: Bool[np.ndarray, " problem"],
    m: int,
    weights: Int[np.ndarray, "boot problem"],
) -> list[dict[str, object]]:
    """SRR, NDR, SDS and NSCR from who solved what.

    All but SDS are means over the problems that their denominator counts, so they share the intervals of every mean;
    a resample without any such problem counts as the worst on either side.
    """
    no_base = None if base.any() else f"the base model solves no problem in {m} samples"
    no_tuned = None if tuned.any() else f"the tuned model solves no problem in {m} samples"
    neither = None if (base | tuned).any() else f"neither model solves a problem in {m} samples"

    def mean(
        values: Shaped[np.ndarray, " problem"], counted: Bool[np.ndarray, " problem"], low: float = 0.0
    ) -> Interval:
        return mean_interval(values[counted].astype(np.float64), weights[:, counted], bounds=(low, 1.0))

    both = no_base or no_tuned
    return [
        _row("SRR", "problems", None if no_base else mean(tuned, base), no_base),
        _row("NDR", "problems", None if no_tuned else mean(~base, tuned), no_tuned),
        _row("SDS", "problems", None if both else _harmonic_mean(base, tuned, weights), both),
        _row("NSCR", "problems", None if neither else mean(tuned * 1 - base * 1, base | tuned, low=-1.0), neither),
    ]


def _harmonic_mean(
    base: Bool[np.ndarray, " problem"], tuned: Bool[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]
) -> Interval:
    """SDS = 2 SRR NDR / (SRR + NDR); its interval counts as problems the fewer of those that either model solves."""
    drawn = np.concatenate([np.ones((1, base.size), dtype=weights.dtype), weights]).astype(np.float64)
    n_base, n_tuned = drawn @ base, drawn @ tuned
    defined = (n_base > 0) & (n_tuned > 0)
    retained, new = (
        np.divide(top, bottom, out=np.zeros(drawn.shape[0]), where=defined)
        for top, bottom in ((drawn @ (base & tuned), n_base), (drawn @ (tuned & ~base), n_tuned))
    )
    means = np.divide(2 * retained * new, retained + new, out=np.full(drawn.shape[0], np.nan), where=defined)
    return percentile_interval(float(means[0]), means[1:], int(min(base.sum(), tuned.sum())), bounds=(0.0, 1.0))
