"""Trials: every share that an estimator gave, or refused, on a case whose true share is known."""

import polars as pl

from lab.tables import Column, Schema

SCORED = ("LOCKED", "MIXED", "TAUGHT")
"""Kinds of organism whose errors and coverage make the headline of a record."""
SILENT = ("PLACEBO", "ABSENT")
"""Kinds on which a positive share is a false alarm."""
RIVALS = ("R1", "R2")
"""Estimators that are published methods, run for comparison; none of them is the lab's answer."""

TRIALS = Schema(
    "trials",
    (
        Column("case", pl.String, "organism, problem mix and seed, such as `mixed-1/2`"),
        Column("kind", pl.String, "LOCKED, DILUTED, ATOMS, ABSENT, TAUGHT, MIXED, PLACEBO or SHARPENED"),
        Column("seed", pl.Int32, "seed that the organism was built with"),
        Column("truth", pl.Float64, "true elicited share; NaN where tuning brought no gain"),
        Column("truth_low", pl.Float64, "lower end of its 95 % interval"),
        Column("truth_high", pl.Float64, "upper end of its 95 % interval"),
        Column("estimator", pl.String, "E1 to E10; R1 and R2 are published methods, P1 and P2"),
        Column("quantity", pl.String, "which of the estimator's shares"),
        Column("value", pl.Float64, "estimated share; NaN where refused"),
        Column("low", pl.Float64, "lower end of its 95 % interval"),
        Column("high", pl.Float64, "upper end of its 95 % interval"),
        Column("refusal", pl.String, "why none was given; null where one was"),
        Column(
            "replicas_covered",
            pl.Float64,
            "fraction of the bootstrap replicas of the problem set whose interval holds the truth; NaN if none was run",
        ),
        Column("seconds", pl.Float64, "what the evidence that this estimator alone needs cost, beyond sampling"),
    ),
)
