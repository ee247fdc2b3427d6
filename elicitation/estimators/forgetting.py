"""E10, forgetting: how far tuning moved the model on the new task, and what it lost on an old one."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from elicitation.estimators.estimate import ESTIMATES, MEASURES, Analysis, Measure, estimate, problem_weights, rates
from lab.metrics.accuracy import REFUSAL_STDERRS
from lab.metrics.bootstrap import (
    Interval,
    difference_interval,
    mean_interval,
    percentile_interval,
    resampled_means,
    resamples,
)
from lab.records.seeds import numpy_generator
from lab.scoring.evidence import Evidence, Role

DIVERGENCE = "KL of base from tuned on the new task"
DROP = "old-task drop, strict"
"""The quantities that a calibration sets against each other."""


class _Mean(NamedTuple):
    """A mean over problems, or why there is none."""

    interval: Interval | None = None
    replicates: Float[np.ndarray, " boot"] = np.empty(0)
    n_problems: int = 0
    refusal: str | None = None


def forgetting(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the divergence on the new task, of the drop on the old one, and of the drop per nat.

    Divergence: E_x KL(base || tuned), in nats, as the mean of log base(y | x) - log tuned(y | x) over the base model's
    own samples y at temperature 1: over the samples of a problem, then over problems. Drop: accuracy of the base model
    minus that of the tuned one on problems of a task that the tuning was not about, in points (as a fraction; negative
    where it gained). Drop per nat: the strict drop over the divergence.

    Source: "RL's Razor" (arXiv 2509.04259), where this divergence predicts forgetting across training runs. Departure:
    one pair has no curve, so its ratio is given, refused below five standard errors of the divergence. New and old
    problems are different ones and are resampled apart; the ratio's interval also covers the drop's over the value of
    the divergence, because resamples of a drop on a few problems understate it.
    """
    divergence = _divergence(evidence, analysis)
    drops = {f"old-task drop, {name}": _drop(evidence, analysis, measure) for name, measure in MEASURES.items()}
    rows = [
        estimate("E10", DIVERGENCE, "nats", divergence.interval, divergence.refusal),
        *(estimate("E10", name, "points", drop.interval, drop.refusal) for name, drop in drops.items()),
        _per_nat(drops[DROP], divergence),
    ]
    return ESTIMATES.frame(rows)


def _divergence(evidence: Evidence, analysis: Analysis) -> _Mean:
    problems = (
        evidence.scores.filter(pl.col("writer") == Role.BASE)
        .group_by("problem_id")
        .agg(nats=(pl.col("logp_base") - pl.col("logp_tuned")).mean())
        .sort("problem_id")
    )
    if problems.is_empty():
        return _Mean(refusal="no scores of the base model's samples: read them with both models")
    weights, nats = problem_weights(evidence, analysis, problems), problems["nats"].to_numpy()
    interval = mean_interval(nats, weights, bounds=(-np.inf, np.inf))
    return _Mean(interval, resampled_means(nats, weights), nats.size)


def _drop(evidence: Evidence, analysis: Analysis, measure: Measure) -> _Mean:
    verdicts = evidence.old_verdicts
    models = (Role.BASE, Role.TUNED)
    by_base, by_tuned = (set(verdicts.filter(pl.col("arm") == arm)["problem_id"].to_list()) for arm in models)
    if not by_base or by_base != by_tuned:
        return _Mean(
            refusal=f"the base model has verdicts on {len(by_base)} problems of an old task, the tuned one on "
            f"{len(by_tuned)}, {len(by_base & by_tuned)} in common: "
            "run both on the same problems of a task that the tuning was not about"
        )
    base, tuned = (rates(verdicts, arm, measure) for arm in models)
    weights = resamples(base.size, analysis.n_boot, numpy_generator(analysis.seed, "estimates", "old"))
    interval = difference_interval(base, tuned, weights)
    return _Mean(interval, resampled_means(base - tuned, weights), base.size)


def _per_nat(drop: _Mean, divergence: _Mean) -> dict[str, object]:
    quantity = "old-task drop per nat"
    if drop.interval is None or divergence.interval is None:
        return estimate("E10", quantity, "points", None, drop.refusal or divergence.refusal)
    nats, points = divergence.interval, drop.interval
    if not nats.value >= REFUSAL_STDERRS * nats.stderr:
        refusal = (
            f"the divergence is {nats.value:.4f} nats with standard error {nats.stderr:.4f} on "
            f"{divergence.n_problems} problems, where {REFUSAL_STDERRS:g} standard errors are needed: "
            "read more samples of the base model, or compare a pair that differs more"
        )
        return estimate("E10", quantity, "points", None, refusal)
    undefined = np.full(drop.replicates.size, np.nan)
    replicates = np.divide(drop.replicates, divergence.replicates, out=undefined, where=divergence.replicates > 0)
    value = points.value / nats.value
    drawn = percentile_interval(value, replicates, min(drop.n_problems, divergence.n_problems))
    low = float(np.fmin(points.low / nats.value, drawn.low))
    high = float(np.fmax(points.high / nats.value, drawn.high))
    return estimate("E10", quantity, "points", Interval(value=value, low=low, high=high, stderr=drawn.stderr))
