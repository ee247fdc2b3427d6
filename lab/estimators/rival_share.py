"""R1 and R2, two published hybrids of base and tuned model, scored as if their recovered gap were an elicited share."""

from math import nan

import polars as pl

from lab.estimators.estimate import ESTIMATES, Analysis, estimate, missing_arm, rates, share_row
from lab.estimators.evidence import Evidence
from lab.metrics.bootstrap import Interval
from lab.metrics.rival_gap import rival_gap

RIVALS = {"R1": "p1", "R2": "p2"}
"""Name -> the arm that is the method as published; decoded greedily, as are the models it lies between."""


def rival_share(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the published methods among the arms: by their own formula, and as a share with an interval.

    No rows for a method that was not run. Their formula (`rival_gap`) has no interval and refuses nothing: NaN where
    base and tuned model are equal. The share is refused as every share is.
    """
    rows: list[dict[str, object]] = []
    for name, arm in RIVALS.items():
        if missing_arm(evidence, arm, "greedy", "tuned-greedy") is not None:
            continue
        hybrid, base, tuned = (float(rates(evidence.verdicts, one).mean()) for one in (arm, "greedy", "tuned-greedy"))
        theirs = Interval(value=rival_gap(hybrid, base, tuned), low=nan, high=nan, stderr=nan)
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
