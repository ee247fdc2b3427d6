"""Calibration page: how well the estimators did where the truth is known: a sentence, a terminal table, a page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl
from rich.table import Table

from elicitation.calibration.record import AGREEMENT, LEAKS, NOT_MEASURED, RECORDS, TRIALS
from elicitation.pages.calibration import figures, sheets
from elicitation.pages.kit.canvas import plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.markup import counted
from elicitation.pages.kit.numerals import fixed, percent, points
from elicitation.pages.kit.table import ROOM_FOR_ALL, Line, numbers, terminal_table
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationPage:
    """All that the page needs; every string in it may come from anyone. A table without rows leaves its section out."""

    title: str
    trials: pl.DataFrame
    """`TRIALS`."""
    records: pl.DataFrame
    """`RECORDS` of these trials; without rows the page says that nothing is calibrated."""
    agreement: pl.DataFrame
    """`AGREEMENT` of these trials."""
    forgetting: pl.DataFrame
    """`FORGETTING`."""
    path: pl.DataFrame
    """`PATH`."""
    minutes: float
    """What the whole calibration took."""
    origin: Origin
    leaks: pl.DataFrame = field(default_factory=NOT_MEASURED.clear)
    """`LEAKS` that studies of real pairs are warned by."""

    def __post_init__(self) -> None:
        for schema in (TRIALS, RECORDS, AGREEMENT, figures.FORGETTING, figures.PATH, LEAKS):
            schema.checked(getattr(self, schema.name))


def render_calibration(page: CalibrationPage) -> str:
    """The page as HTML; equal pages give equal text."""
    trials = page.trials
    return document(
        "calibration/page.html",
        page.title,
        page.origin,
        plot_block=plot_block,
        numbers=numbers,
        page=page,
        answer=calibration_answer(page.records),
        drawn=figures.drawable(trials).height,
        share_key=figures.share_key(trials),
        draw_shares=partial(figures.share_panels, trials),
        refused=sheets.refused_list(trials),
        published=sheets.published_records(page.records),
        records=sheets.records_table(page.records),
        kinds=sheets.kinds_table(trials),
        alarms=sheets.alarms_table(trials),
        agreement=sheets.agreement_table(page.agreement),
        draw_path=partial(figures.path_plot, page.path),
        path=sheets.path_table(page.path),
        leaks=sheets.leaks_table(page.leaks),
        fit=sheets.forgetting_words(page.forgetting),
        draw_forgetting=partial(figures.forgetting_scatter, page.forgetting),
        forgetting=sheets.forgetting_table(page.forgetting),
        took="" if math.isnan(page.minutes) else f"The whole calibration took {page.minutes:,.0f} minutes.",
        cost=sheets.cost_table(trials),
    )
