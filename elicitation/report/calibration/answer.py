"""The calibration's answer: what the records say of the best estimator, in one plain sentence."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from elicitation.calibration.record import PUBLISHED
from elicitation.report.kit.markup import visible
from elicitation.report.study.record_words import counted
from lab.records.numerals import ABSENT, percent, points

GOAL_ERROR, GOAL_COVERAGE = 0.05, 0.93
"""The mean absolute error and the coverage that were set as the goal before any calibration was run."""
_NONE = "Not calibrated: no estimator gave a share of a gain whose true share is known."


def calibration_answer(records: pl.DataFrame) -> str:
    """One sentence on `RECORDS`."""
    ranked = ranking(records)
    if not ranked:
        return _NONE
    best = ranked[0]
    among = f", the best of {len(ranked)} by these same trials," if len(ranked) > 1 else ""
    return (
        f"On {counted(best['n_trials'], 'trial')} with a known share, {best['estimator']} ({best['quantity']}){among} "
        f"errs by {_points(best['mean_absolute_error'])} on average, {_coverage(best)}, and raises {_alarms(best)}: "
        f"{_goal(best)}."
    )


def ranking(records: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of `RECORDS` with an answer: those that meet the goal first, each part by mean absolute error.

    One that refused more than half of its trials is left out while there is another, and rivals always.
    """
    n_given = pl.col("n_trials") - pl.col("n_refused")
    judged = records.filter(
        ~pl.col("estimator").is_in(PUBLISHED), n_given > 0, pl.col("mean_absolute_error").is_not_nan()
    )
    ready = judged.filter(2 * n_given >= pl.col("n_trials"))
    rated = judged if ready.is_empty() else ready
    meets = (pl.col("mean_absolute_error") <= GOAL_ERROR) & (pl.col("coverage").fill_nan(0.0) >= GOAL_COVERAGE)
    return rated.with_columns(fails=~meets).sort("fails", "mean_absolute_error", maintain_order=True).to_dicts()


def _coverage(best: Mapping[str, Any]) -> str:
    n_trials, n_given = best["n_trials"], best["n_trials"] - best["n_refused"]
    which = f"the {n_given} it answered" if n_given < n_trials else "them"
    return f"its 95 % interval holds the truth in {percent(best['coverage'], 0)} of {which}"


def _alarms(best: Mapping[str, Any]) -> str:
    if best["n_silent"] == 0:
        return "no false alarm, but was not tried where there is no gain to explain"
    alarms = best["n_false_alarms"]
    where = f"{counted(best['n_silent'], 'trial')} without a gain to explain"
    return f"{counted(alarms, 'false alarm') if alarms else 'no false alarm'} in {where}"


def _goal(best: Mapping[str, Any]) -> str:
    goal = f"the goal of at most {_points(GOAL_ERROR, 0)} and at least {percent(GOAL_COVERAGE, 0)}"
    close, covers = best["mean_absolute_error"] <= GOAL_ERROR, best["coverage"] >= GOAL_COVERAGE
    verdicts = {
        (True, True): "met",
        (True, False): "met for the error and missed for the coverage",
        (False, True): "missed for the error and met for the coverage",
        (False, False): "missed for both",
    }
    return f"{goal} is {verdicts[bool(close), bool(covers)]}"


def _points(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} points"


WIDE_ONLY = ("worst", "bias", "replicas", "seconds")
ROOM_FOR_ALL = 130
"""Columns of a terminal that hold the whole table; a narrower one is shown without the columns of `WIDE_ONLY`."""


def calibration_summary(records: pl.DataFrame, width: int = ROOM_FOR_ALL) -> Table:
    """`RECORDS` as a table for a terminal of `width` columns, the answer below; errors are in points."""
    wide = width >= ROOM_FOR_ALL
    table = Table(title="Estimators where the true share is known", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("given", "error", "worst", "bias", "coverage", "replicas", "leak", "false alarms", "seconds"):
        if wide or heading not in WIDE_ONLY:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in records.iter_rows(named=True):
        cells = _cells(row)
        shown = [cell for heading, cell in cells.items() if wide or heading not in WIDE_ONLY]
        table.add_row(Text(visible(f"{row['estimator']} {row['quantity']}")), *shown)
    table.caption = Text(visible(calibration_answer(records)))
    table.caption_justify = "left"
    return table


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "given": f"{row['n_trials'] - row['n_refused']}/{row['n_trials']}",
        "error": points(row["mean_absolute_error"]).removeprefix("+"),
        "worst": points(row["worst_error"]).removeprefix("+"),
        "bias": points(row["bias"]),
        "coverage": percent(row["coverage"], 0),
        "replicas": percent(row["coverage_replicas"], 0),
        "leak": percent(row["leak"], 0),
        "false alarms": f"{row['n_false_alarms']}/{row['n_silent']}",
        "seconds": ABSENT if row["seconds"] != row["seconds"] else f"{row['seconds']:.1f}",
    }
