"""Leak: what an arm of the ladder recovers on organisms where an honest method can recover nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from pathlib import Path
from typing import NamedTuple

import polars as pl

from elicitation.calibration.record import SILENT
from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema, read_table

TAUGHT = "TAUGHT"
"""The kind of organism whose gain was all taught: the true share is 0."""
ABSENT = "ABSENT"
"""The kind whose base lacks the skill, and whose tuning found nothing to reinforce."""
LEAKING = (TAUGHT, *SILENT)
"""Kinds on which whatever an arm recovers is a leak."""

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
SHIPPED = Path(__file__).parent / "shipped" / "leaks.parquet"
"""The leaks of the project's own calibration."""
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
    return read_table(SHIPPED, LEAKS) if SHIPPED.exists() else NOT_MEASURED
