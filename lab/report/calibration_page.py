"""Calibration page: how well the estimators did where the truth is known, as one HTML file."""

import math
from dataclasses import dataclass, field

import polars as pl

from lab.calibration.agreement import AGREEMENT
from lab.calibration.leak import LEAKS, NOT_MEASURED
from lab.calibration.record import RECORDS
from lab.calibration.trial import TRIALS
from lab.provenance import Provenance
from lab.report import calibration_captions as captions
from lab.report.calibration_answer import calibration_answer
from lab.report.calibration_tables import (
    agreement_table,
    alarms_table,
    cost_table,
    forgetting_table,
    kinds_table,
    path_table,
    records_table,
    refused_list,
)
from lab.report.captions import PROVENANCE
from lab.report.document import document
from lab.report.forgetting_scatter import FORGETTING, fitted_line, forgetting_scatter
from lab.report.leaks_table import leaks_table
from lab.report.markup import escaped
from lab.report.numbers import numbers
from lab.report.numerals import points
from lab.report.path_plot import PATH, path_plot
from lab.report.plot_block import plot_block
from lab.report.provenance_section import TableFile, provenance_section, sources
from lab.report.rival_records import rival_records
from lab.report.share_panels import drawable, share_key, share_panels


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
    made_by: Provenance
    command: str
    """What to type to make the page again."""
    minutes: float
    """What the whole calibration took."""
    files: tuple[TableFile, ...]
    leaks: pl.DataFrame = field(default_factory=NOT_MEASURED.clear)
    """`LEAKS` that studies of real pairs are warned by."""

    def __post_init__(self) -> None:
        for schema in (TRIALS, RECORDS, AGREEMENT, FORGETTING, PATH, LEAKS):
            schema.checked(getattr(self, schema.name))


def render_calibration(page: CalibrationPage) -> str:
    """The page as HTML; equal pages give equal text."""
    answer = calibration_answer(page.records)
    header = f'<p class="answer">{escaped(answer)}</p>{captions.HOW_TO_READ}'
    trials = page.trials
    parts = [
        _shares(page),
        f"{captions.RECORDS}{rival_records(page.records)}{records_table(page.records)}{sources(page.files, 'records')}",
        "" if trials.is_empty() else f"{captions.KINDS}{kinds_table(trials)}{sources(page.files, 'trials')}",
        "" if trials.is_empty() else f"{captions.ALARMS}{alarms_table(trials)}{sources(page.files, 'trials')}",
        _agreement(page),
        _path(page),
        _leaks(page),
        _forgetting(page),
        _cost(page),
        f"{PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    return document(page.title, header, parts, captions.WITHOUT_SCRIPTS)


def _shares(page: CalibrationPage) -> str:
    trials = page.trials
    if drawable(trials).is_empty():
        return ""
    caption = captions.SHARES
    plot = plot_block("shares", lambda canvas: share_panels(trials, canvas), says=caption.says, caption=caption.below)
    return f"{caption.head}{share_key(trials)}{plot}{refused_list(trials)}{sources(page.files, 'trials')}"


def _agreement(page: CalibrationPage) -> str:
    if page.agreement.is_empty():
        return ""
    return f"{captions.AGREEMENT}{agreement_table(page.agreement)}{sources(page.files, 'agreement')}"


def _path(page: CalibrationPage) -> str:
    path = page.path
    if path.is_empty():
        return ""
    caption = captions.PATH
    plot = plot_block("path", lambda canvas: path_plot(path, canvas), says=caption.says, caption=caption.below)
    table = numbers("Every route", path_table(path))
    return f"{caption.head}{plot}{table}{sources(page.files, 'path')}"


def _leaks(page: CalibrationPage) -> str:
    if page.leaks.is_empty():
        return ""
    return f"{captions.LEAKS}{leaks_table(page.leaks)}{sources(page.files, 'leaks')}"


def _forgetting(page: CalibrationPage) -> str:
    forgetting = page.forgetting
    if forgetting.is_empty():
        return ""
    caption = captions.FORGETTING
    plot = plot_block(
        "forgetting", lambda canvas: forgetting_scatter(forgetting, canvas), says=caption.says, caption=caption.below
    )
    table = numbers("Every case", forgetting_table(forgetting), place="table-forgetting")
    note = '<p class="note">Numbers: <a href="#table-forgetting">every case</a></p>'
    return f"{caption.head}<p>{forgetting_words(forgetting)}</p>{plot}{note}{table}"


def forgetting_words(forgetting: pl.DataFrame) -> str:
    """Slope and fit of the scatter in one sentence."""
    line = fitted_line(forgetting)
    if math.isnan(line.slope):
        return f"No line can be fitted to n = {line.n}: that needs three cases that diverge differently."
    fit = "" if math.isnan(line.r_squared) else f", R² = {line.r_squared:.2f}".replace("-", "−")
    return f"A nat of divergence goes with {points(line.slope)} points of accuracy lost{fit} (n = {line.n})."


def _cost(page: CalibrationPage) -> str:
    took = "" if math.isnan(page.minutes) else f"<p>The whole calibration took {page.minutes:,.0f} minutes.</p>"
    return "" if page.trials.is_empty() else f"{captions.COST}{took}{cost_table(page.trials)}"
