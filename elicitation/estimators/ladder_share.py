"""E5, the elicitation ladder: how much of the tuned model's gain an arm gives the base model, decoding held equal."""

from functools import partial
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
from lab.metrics.accuracy import gap_recovered
from lab.metrics.bootstrap import Interval
from lab.scoring.evidence import ArmKey, Control, DecodingName, Evidence, Role

DECODINGS: tuple[DecodingName, ...] = ("sampled", "greedy")


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
    share, gain = (partial(row, evidence, analysis, "E5") for row in (share_row, gain_row))
    vector, drawn = Role.VECTOR_FIRST_TOKEN, Control.RANDOM_VECTORS
    rows = [share(f"fitted vector at the first token, {how}", arm=vector, decoding=how) for how in DECODINGS]
    random: dict[DecodingName, ArmKey] = {how: ArmKey(vector, how, drawn) for how in DECODINGS}
    rows += [gain(f"random vectors, {how}", arm=key, over=ArmKey(Role.BASE, how)) for how, key in random.items()]
    rows += [gain(f"fitted over random, {how}", arm=ArmKey(vector, how), over=key) for how, key in random.items()]
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
