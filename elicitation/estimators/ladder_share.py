"""E5, the elicitation ladder: how much of the tuned model's gain an arm gives the base model, decoding held equal."""

from math import nan

import polars as pl

from elicitation.estimators.estimate import (
    ESTIMATES,
    Analysis,
    estimate,
    gain_row,
    missing_arm,
    named,
    rates,
    share_row,
)
from lab.metrics.bootstrap import Interval
from lab.metrics.share import gap_recovered
from lab.scoring.evidence import ArmKey, Control, DecodingName, Evidence, Role


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
    decodings: tuple[DecodingName, ...] = ("sampled", "greedy")
    vector, drawn, base = (
        {how: ArmKey(role, how, control) for how in decodings}
        for role, control in (
            (Role.VECTOR_FIRST_TOKEN, None),
            (Role.VECTOR_FIRST_TOKEN, Control.RANDOM_VECTORS),
            (Role.BASE, None),
        )
    )
    rows = [
        share_row(
            evidence,
            analysis,
            "E5",
            f"fitted vector at the first token, {how}",
            arm=Role.VECTOR_FIRST_TOKEN,
            decoding=how,
        )
        for how in decodings
    ]
    for what, arm, over in (("random vectors", drawn, base), ("fitted over random", vector, drawn)):
        rows += [
            gain_row(evidence, analysis, "E5", f"{what}, {how}", arm=arm[how], over=over[how]) for how in decodings
        ]
    return ESTIMATES.frame(rows)


PUBLISHED = {"P1": Role.P1, "P2": Role.P2}
"""Name -> the arm that is the method as published; decoded greedily, as are the models it lies between."""


def published_share(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the published methods among the arms: by their own formula, and as a share with an interval.

    No rows for a method that was not run. Their formula (`gap_recovered`) has no interval and refuses nothing: NaN
    where base and tuned model are equal. The share is refused as every share is.
    """
    rows: list[dict[str, object]] = []
    for name, role in PUBLISHED.items():
        keys = [ArmKey(each, "greedy") for each in (role, Role.BASE, Role.TUNED)]
        if missing_arm(evidence, *keys) is not None:
            continue
        accuracies = [float(rates(evidence.verdicts, named(evidence, key)).mean()) for key in keys]
        theirs = Interval(value=gap_recovered(*accuracies), low=nan, high=nan, stderr=nan)
        rows += [
            estimate(name, "published hybrid, their formula", "share", theirs),
            share_row(evidence, analysis, name, "published hybrid, with interval", arm=role, decoding="greedy"),
        ]
    return ESTIMATES.frame(rows)
