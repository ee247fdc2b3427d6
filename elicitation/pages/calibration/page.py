"""Calibration page: how well the estimators did where the truth is known, as one HTML file."""

import math
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from elicitation.calibration.record import AGREEMENT, LEAKS, NOT_MEASURED, RECORDS, TRIALS
from elicitation.pages.calibration import figures, sheets
from elicitation.pages.calibration.answer import calibration_answer
from elicitation.pages.kit.canvas import plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.table import numbers


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
