"""Truth: the elicited share of an organism's gain, known because what its base saw is known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lab.metrics.bootstrap import percentile_interval, resampled_means, resamples
from lab.metrics.share import elicited_share
from lab.organisms.recipe import Case
from lab.records.seeds import numpy_generator
from lab.tasks.chain_world import ChainMix, ChainPart, ChainTask
from lab.tasks.source import task_source

N_BOOT = 2000

Rates = Mapping[str, Float[np.ndarray, " problem"]]
"""Operators of a task -> strict accuracy on each problem of its exam."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The true elicited share of one case, with the interval that its measured gains leave."""

    task: str
    """As a user would type it."""
    kind: str
    share: float
    """NaN where refused."""
    low: float
    high: float
    refusal: str | None
    """Why there is no true share: tuning brought no gain to share out."""


def truth(case: Case, base: Rates, tuned: Rates, *, seed: int) -> Truth:
    """sum of w_f G_f over the elicited skills / sum of w_f G_f over all: w_f the share of problems about skill f.

    G_f is the mean strict gain on skill f's exam, tuned minus base, paired by problem. Which skills are elicited is the
    construction's: those that the base saw worked. The interval resamples the exams of all skills independently; for a
    task of one skill the share is exactly 0 or 1. Refused, like any share, where the gain is under five standard
    errors: then tuning did nothing whose origin could be asked for.
    """
    parts = case_parts(case)
    gains, refusals = [], []
    for part in parts:
        operators = part.task.operators
        generator = numpy_generator(seed, "truth", operators)
        weights = resamples(len(base[operators]), N_BOOT, generator)
        gain = tuned[operators] - base[operators]
        refusal = elicited_share(base[operators], base[operators], tuned[operators], weights).refusal
        if refusal is None and gain.mean() < 0:
            refusal = f"tuning lost {-100 * gain.mean():.1f} points on {operators}: there is no gain to share out"
        refusals.append(refusal)
        gains.append(part.percent / 100 * np.concatenate([[gain.mean()], resampled_means(gain, weights)]))
    if refusal := next((reason for reason in refusals if reason is not None), None):
        return Truth(task=case.task, kind=case.kind, share=np.nan, low=np.nan, high=np.nan, refusal=refusal)
    elicited = [part.task.operators in case.elicited for part in parts]
    if all(elicited) or not any(elicited):
        share = float(all(elicited))
        return Truth(task=case.task, kind=case.kind, share=share, low=share, high=share, refusal=None)
    shares = np.sum([gain for gain, mine in zip(gains, elicited, strict=True) if mine], axis=0) / np.sum(gains, axis=0)
    interval = percentile_interval(float(shares[0]), shares[1:], min(len(base[part.task.operators]) for part in parts))
    return Truth(
        task=case.task, kind=case.kind, share=interval.value, low=interval.low, high=interval.high, refusal=None
    )


def case_parts(case: Case) -> tuple[ChainPart, ...]:
    """The single-skill tasks of a case, each with its percentage."""
    match task_source(case.task):
        case ChainMix(parts=parts):
            return parts
        case ChainTask() as task:
            return (ChainPart(100.0, task),)
        case other:
            raise AssertionError(f"organisms know chains only, not {other}")
