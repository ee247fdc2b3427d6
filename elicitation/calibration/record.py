"""Records: how well each estimator did over all trials; what a report prints beside its estimates."""

from itertools import combinations
from math import nan
from pathlib import Path

import polars as pl

from lab.records.tables import Column, Schema, read_table

SCORED = ("LOCKED", "MIXED", "TAUGHT")
"""Kinds of organism whose errors and coverage make the headline of a record."""
SILENT = ("PLACEBO", "ABSENT")
"""Kinds on which a positive share is a false alarm."""
PUBLISHED = ("P1", "P2")
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
        Column("estimator", pl.String, "E1 to E10, and the published methods P1 and P2"),
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


RECORDS = Schema(
    "records",
    (
        Column("estimator", pl.String, "E1 to E10, and the published methods P1 and P2"),
        Column("quantity", pl.String, "which of the estimator's shares"),
        Column("n_trials", pl.Int32, "trials on LOCKED, MIXED and TAUGHT organisms that have a true share"),
        Column("n_refused", pl.Int32, "of them, those without a share"),
        Column("mean_absolute_error", pl.Float64, "of the share, over the trials that gave one"),
        Column("worst_error", pl.Float64, "largest absolute error among them"),
        Column("bias", pl.Float64, "mean of share minus truth"),
        Column("coverage", pl.Float64, "fraction of those trials whose interval holds the truth; NaN if none has any"),
        Column("coverage_replicas", pl.Float64, "the same over bootstrap replicas of their problem sets"),
        Column("leak", pl.Float64, "mean share on TAUGHT, where nothing was elicited"),
        Column("n_false_alarms", pl.Int32, "PLACEBO trials not refused, and ABSENT trials with a positive share"),
        Column("n_silent", pl.Int32, "PLACEBO and ABSENT trials"),
        Column("seconds", pl.Float64, "mean cost of a trial beyond sampling the two models"),
    ),
)
SHIPPED = Path(__file__).parent / "shipped" / "records.parquet"
"""The records of the project's own calibration."""


def records(trials: pl.DataFrame) -> pl.DataFrame:
    """`TRIALS` to `RECORDS`: one row for each share of each estimator, in order of first appearance.

    Errors, coverage and leak are over the trials of `SCORED` kinds that have a true share (tuning may have brought no
    gain to share out) and gave one; DILUTED, ATOMS and SHARPENED trials stay out of them and count only into the mean
    cost. A mean over nothing is NaN.
    """
    given = pl.col("refusal").is_null() & pl.col("value").is_not_nan()
    scored = pl.col("kind").is_in(SCORED) & pl.col("truth").is_not_nan()
    counted = scored & given
    error = pl.col("value") - pl.col("truth")
    has_interval = pl.col("low").is_not_nan() & pl.col("high").is_not_nan()
    covered = (pl.col("low") <= pl.col("truth")) & (pl.col("truth") <= pl.col("high"))
    replicas = pl.col("replicas_covered")
    alarm = given & ((pl.col("kind") == "PLACEBO") | ((pl.col("kind") == "ABSENT") & (pl.col("value") > 0)))
    found = (
        TRIALS.checked(trials)
        .group_by("estimator", "quantity", maintain_order=True)
        .agg(
            n_trials=scored.sum(),
            n_refused=(scored & ~given).sum(),
            mean_absolute_error=error.filter(counted).abs().mean(),
            worst_error=error.filter(counted).abs().max(),
            bias=error.filter(counted).mean(),
            coverage=pl.when(has_interval.filter(counted).any()).then(covered.filter(counted).mean()),
            coverage_replicas=replicas.filter(counted & replicas.is_not_nan()).mean(),
            leak=pl.col("value").filter(counted & (pl.col("kind") == "TAUGHT")).mean(),
            n_false_alarms=alarm.sum(),
            n_silent=pl.col("kind").is_in(SILENT).sum(),
            seconds=pl.col("seconds").filter(pl.col("seconds").is_not_nan()).mean(),
        )
        .with_columns(pl.col(pl.Float64).fill_null(float("nan")), pl.col(pl.UInt32).cast(pl.Int32))
    )
    return RECORDS.checked(found)


def shipped_records() -> pl.DataFrame:
    """The records that came with this version of the lab; no rows if it came with none.

    >>> el.shipped_records().filter(estimator="E1")["n_trials"].to_list()
    [15]
    """
    return read_table(SHIPPED, RECORDS) if SHIPPED.exists() else RECORDS.frame([])


def shipped_trials() -> pl.DataFrame:
    """The trials behind the shipped records, one a case and share; no rows if the lab came with none."""
    trials = SHIPPED.with_name("trials.parquet")
    return read_table(trials, TRIALS) if trials.exists() else TRIALS.frame([])


AGREEMENT = Schema(
    "agreement",
    (
        Column("first", pl.String, "estimator and quantity, such as `E2: gain within the base's reach`"),
        Column("second", pl.String, "the other, later in the order of the trials"),
        Column("n_trials", pl.Int32, "trials of any kind on which both gave a share"),
        Column("mean_absolute_difference", pl.Float64, "between the two shares, over those trials; NaN if none"),
        Column("largest_difference", pl.Float64, "largest absolute difference among them; NaN if none"),
    ),
)


def agreement(trials: pl.DataFrame) -> pl.DataFrame:
    """`TRIALS` to `AGREEMENT`: every two shares once, in order of first appearance.

    The kind of organism does not matter here: two estimators can agree or not also where no truth is known.
    """
    given = TRIALS.checked(trials).with_columns(
        name=pl.format("{}: {}", "estimator", "quantity"),
        given=pl.when(pl.col("refusal").is_null()).then(pl.col("value")).otherwise(nan),
    )
    shares = {
        str(name): given.filter(pl.col("name") == name, pl.col("given").is_not_nan()).select("case", "given")
        for name in given["name"].unique(maintain_order=True)
    }
    rows: list[dict[str, object]] = []
    for first, second in combinations(shares, 2):
        both = shares[first].join(shares[second], on="case", suffix="_second")
        apart = (both["given"] - both["given_second"]).abs().to_list()
        mean, largest = sum(apart) / len(apart) if apart else nan, max(apart, default=nan)
        numbers = {"n_trials": len(apart), "mean_absolute_difference": mean, "largest_difference": largest}
        rows.append({"first": first, "second": second, **numbers})
    return AGREEMENT.frame(rows)
