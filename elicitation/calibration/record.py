"""Records: how well each estimator did over all trials; what a report prints beside its estimates."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan, sqrt
from pathlib import Path
from typing import NamedTuple

import polars as pl

from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema, read_table

TAUGHT = "TAUGHT"
"""The kind of organism whose gain was all taught: the true share is 0."""
ABSENT = "ABSENT"
"""The kind whose base lacks the skill, and whose tuning found nothing to reinforce."""
SCORED = ("LOCKED", "MIXED", TAUGHT)
"""Kinds whose errors and coverage make the headline of a record."""
SILENT = ("PLACEBO", ABSENT)
"""Kinds on which a positive share is a false alarm."""
LEAKING = (TAUGHT, *SILENT)
"""Kinds on which whatever an arm recovers is a leak."""
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
SHIPPED = Path(__file__).parent / "shipped"
"""Where the tables of the project's own calibration are."""


def shipped(schema: Schema, name: str = "") -> pl.DataFrame:
    """A table that came with this version of the lab, in a file of its own name or of `name`; no rows if it did not."""
    path = SHIPPED / f"{name or schema.name}.parquet"
    return read_table(path, schema) if path.exists() else schema.frame([])


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
    alarm = given & ((pl.col("kind") == "PLACEBO") | ((pl.col("kind") == ABSENT) & (pl.col("value") > 0)))
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
            leak=pl.col("value").filter(counted & (pl.col("kind") == TAUGHT)).mean(),
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
    return shipped(RECORDS)


def shipped_trials() -> pl.DataFrame:
    """The trials behind the shipped records, one a case and share; no rows if the lab came with none."""
    return shipped(TRIALS)


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


LEAKS = Schema(
    "leaks",
    (
        Column("arm", pl.String, "rung or control of the ladder"),
        Column("kind", pl.String, "TAUGHT: all of the gain was taught; ABSENT and PLACEBO: there is no gain"),
        Column("case", pl.String, "organism, problem mix and seed, such as `taught-1`"),
        Column("n_problems", pl.Int32, "problems answered"),
        Column("gain", pl.Float64, "strict accuracy minus the base's on the same problems, a fraction"),
        Column("gain_low", pl.Float64, "lower end of its paired 95 % interval over problems"),
        Column("gain_high", pl.Float64, "upper end of that interval"),
        Column("beyond", pl.Float64, "strict accuracy minus that of the best control; without one, minus the base's"),
        Column("beyond_low", pl.Float64, "lower end of its paired 95 % interval over problems"),
        Column("beyond_high", pl.Float64, "upper end of that interval"),
        Column("share", pl.Float64, "gain over the tuned model's gain; NaN where refused"),
        Column("share_low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("share_high", pl.Float64, "upper end of that interval"),
        Column("refusal", pl.String, "why no share is given; null where one is"),
    ),
)
TABLES = (TRIALS, RECORDS, AGREEMENT, LEAKS)
"""What a calibration makes."""
NOT_MEASURED = LEAKS.frame([])
"""The table of a lab that has measured no arm."""


class Case(NamedTuple):
    """The study of an organism with a known answer."""

    name: str
    kind: str
    """TAUGHT, ABSENT or PLACEBO; other kinds measure no leak."""
    ladder: pl.DataFrame
    """The report's `LADDER`."""


class Mean(NamedTuple):
    """A mean over cases, a fraction, with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What is known of one arm's leak."""

    n_cases: int
    """TAUGHT cases."""
    n_problems: int
    """Problems of all of them."""
    n_refused: int
    """TAUGHT cases without a share."""
    gain: Mean
    """Over the TAUGHT cases, in accuracy."""
    share: Mean
    """Over those TAUGHT cases that gave one."""
    n_silent: int
    """ABSENT cases."""
    beyond: Mean
    """The largest gain beyond the arm's control on one of those; an interval of that case alone."""
    beyond_case: str
    """That case; empty where there is none."""


def leaks(cases: Sequence[Case]) -> pl.DataFrame:
    """The ladders of calibration studies to `LEAKS`: every rung and control of every case that can show a leak.

    Raises EstimateError where a case comes twice, since its problems would count twice.
    """
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EstimateError(f"leaks: {', '.join(twice)} came more than once; give each case one ladder")
    rows: list[dict[str, object]] = []
    for case in cases:
        between = case.ladder.filter(pl.col("measure") == "strict", pl.col("kind") != "end")
        for arm in between.iter_rows(named=True) if case.kind in LEAKING else ():
            name = "gain" if isnan(arm["over_control"]) else "over_control"
            beyond = {f"beyond{end}": arm[f"{name}{end}"] for end in ("", "_low", "_high")}
            kept = {column: arm[column] for column in LEAKS.dtypes if column not in ("kind", "case", *beyond)}
            rows.append({"kind": case.kind, "case": case.name, **kept, **beyond})
    return LEAKS.frame(rows)


def leak(table: pl.DataFrame, arm: str) -> Leak | None:
    """The leak of one arm in `LEAKS`; None where it was not measured.

    PLACEBO organisms are in the table and not in this summary: their base has skills that it shows too seldom, so what
    a prompt or a way of decoding gains on them is there to be elicited, though tuning did not do it.
    """
    mine = table.filter(pl.col("arm") == arm)
    if mine.is_empty():
        return None
    taught = mine.filter(pl.col("kind") == TAUGHT)
    silent = mine.filter(pl.col("kind") == ABSENT, pl.col("beyond").is_not_nan())
    given = taught.filter(pl.col("share").is_not_nan())
    worst = silent.sort("beyond", descending=True, maintain_order=True).head(1)
    return Leak(
        n_cases=taught.height,
        n_problems=int(taught["n_problems"].sum()),
        n_refused=taught.height - given.height,
        gain=mean_over_cases(taught, "gain"),
        share=mean_over_cases(given, "share"),
        n_silent=silent.height,
        beyond=mean_over_cases(worst, "beyond"),
        beyond_case="".join(worst["case"]),
    )


def mean_over_cases(rows: pl.DataFrame, name: str) -> Mean:
    """Mean of column `name` over cases, each with its own problems, from their own values and 95 % intervals.

    The problems of the cases are independent samples, so the interval is that of the same cases with other problems:
    each end lies from the mean by the root of the summed squares of the cases' distances to that end, over their number
    (Zou and Donner 2008, Stat. Med. 27:1693, who keep the skew of the single intervals). How far organisms differ from
    one another is not in it.
    """
    if rows.is_empty():
        return Mean(nan, nan, nan)
    value, low, high = (rows[column].to_numpy() for column in (name, f"{name}_low", f"{name}_high"))
    n = len(value)
    mean = float(value.mean())
    return Mean(mean, mean - sqrt(((value - low) ** 2).sum()) / n, mean + sqrt(((high - value) ** 2).sum()) / n)


def shipped_leaks() -> pl.DataFrame:
    """The leaks that came with this version of the lab; no rows if it came with none.

    >>> el.shipped_leaks().filter(kind="TAUGHT", arm="takeover-disagreement").height
    3
    """
    return shipped(LEAKS)
