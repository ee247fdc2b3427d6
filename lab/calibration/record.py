"""Records: how well each estimator did over all trials; what a report prints beside its estimates."""

from pathlib import Path

import polars as pl

from lab.calibration.trial import SCORED, SILENT, TRIALS
from lab.tables import Column, Schema, read_table

RECORDS = Schema(
    "records",
    (
        Column("estimator", pl.String, "E1 to E10; R1 and R2 are published methods, P1 and P2"),
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
    """The records that came with this version of the lab; no rows if it came with none."""
    return read_table(SHIPPED, RECORDS) if SHIPPED.exists() else RECORDS.frame([])
