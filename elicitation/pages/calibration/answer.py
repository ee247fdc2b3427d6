"""The calibration's answer: what the records say of the best estimator, in one plain sentence."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.table import Table

from elicitation.pages.kit.markup import counted
from elicitation.pages.kit.numerals import fixed, percent, points
from elicitation.pages.kit.table import ROOM_FOR_ALL, Line, terminal_table
from elicitation.pages.record_words import GOAL_COVERAGE, GOAL_ERROR, ranking

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
    if close and covers:
        return f"{goal} is met"
    if not close and not covers:
        return f"{goal} is missed for both"
    error, coverage = ("met" if met else "missed" for met in (close, covers))
    return f"{goal} is {error} for the error and {coverage} for the coverage"


def _points(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} points"


_COLUMNS = ("", "given", "error", "worst", "bias", "coverage", "replicas", "leak", "false alarms", "seconds")
WIDE_ONLY = ("worst", "bias", "replicas", "seconds")


def calibration_summary(records: pl.DataFrame, width: int = ROOM_FOR_ALL) -> Table:
    """`RECORDS` as a table for a terminal of `width` columns, the answer below; errors are in points."""
    rows = [
        Line(
            (
                f"{row['estimator']} {row['quantity']}",
                f"{row['n_trials'] - row['n_refused']}/{row['n_trials']}",
                *(points(row[name]).removeprefix("+") for name in ("mean_absolute_error", "worst_error")),
                points(row["bias"]),
                *(percent(row[name], 0) for name in ("coverage", "coverage_replicas", "leak")),
                f"{row['n_false_alarms']}/{row['n_silent']}",
                fixed(row["seconds"], 1),
            )
        )
        for row in records.iter_rows(named=True)
    ]
    title, below = "Estimators where the true share is known", calibration_answer(records)
    return terminal_table(title, _COLUMNS, rows, width, wide_only=WIDE_ONLY, below=below)
