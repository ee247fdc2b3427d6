"""E5, the elicitation ladder: how much of the tuned model's gain an arm gives the base model, decoding held equal."""

from math import nan

import polars as pl

from elicitation.estimators.estimate import ESTIMATES, Analysis, estimate, gain_row, missing_arm, rates, share_row
from lab.metrics.bootstrap import Interval
from lab.metrics.share import gap_recovered
from lab.scoring.evidence import Evidence


def ladder_share(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the steering vectors at the first token, sampled at temperature 1 and decoded greedily.

    Share: (arm - base) / (tuned - base) in strict accuracy, all three decoded the same way, so what greedy decoding
    itself gives is in no numerator. It is raw: a vector of no meaning may help as well, so a share counts only as far
    as the fitted vector beats its norm-matched random control, whose gain and distance stand beside it in points
    (differences of strict accuracy, as fractions).
    Source: one edit at the first generated token against random ones of the same norm, "Reasoning Beyond
    Chain-of-Thought" (arXiv 2601.08058), and "Small Vectors, Big Effects" (arXiv 2509.06608) for a fitted vector.
    Departure: they compare accuracies; here it is a ratio with Fieller's interval, refused where the gap is noise.
    """
    sampled = {"base": "base", "tuned": "tuned"}
    greedy = {"base": "greedy", "tuned": "tuned-greedy"}
    rows = [
        share_row(
            evidence, analysis, "E5", "fitted vector at the first token, sampled", arm="fitted-opening", **sampled
        ),
        share_row(evidence, analysis, "E5", "fitted vector at the first token, greedy", arm="fitted-greedy", **greedy),
        gain_row(evidence, analysis, "E5", "random vectors, sampled", arm="random-opening", over="base"),
        gain_row(evidence, analysis, "E5", "random vectors, greedy", arm="random-greedy", over="greedy"),
        gain_row(evidence, analysis, "E5", "fitted over random, sampled", arm="fitted-opening", over="random-opening"),
        gain_row(evidence, analysis, "E5", "fitted over random, greedy", arm="fitted-greedy", over="random-greedy"),
    ]
    return ESTIMATES.frame(rows)


PUBLISHED = {"P1": "p1", "P2": "p2"}
"""Name -> the arm that is the method as published; decoded greedily, as are the models it lies between."""


def published_share(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the published methods among the arms: by their own formula, and as a share with an interval.

    No rows for a method that was not run. Their formula (`gap_recovered`) has no interval and refuses nothing: NaN
    where base and tuned model are equal. The share is refused as every share is.
    """
    rows: list[dict[str, object]] = []
    for name, arm in PUBLISHED.items():
        if missing_arm(evidence, arm, "greedy", "tuned-greedy") is not None:
            continue
        hybrid, base, tuned = (float(rates(evidence.verdicts, one).mean()) for one in (arm, "greedy", "tuned-greedy"))
        theirs = Interval(value=gap_recovered(hybrid, base, tuned), low=nan, high=nan, stderr=nan)
        method = f"rival P{name[1:]}"
        rows.append(estimate(name, f"{method}, their formula", "share", theirs))
        rows.append(
            share_row(
                evidence,
                analysis,
                name,
                f"{method}, with interval",
                arm=arm,
                base="greedy",
                tuned="tuned-greedy",
            )
        )
    return ESTIMATES.frame(rows)
