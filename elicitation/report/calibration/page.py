"""Calibration page: how well the estimators did where the truth is known, as one HTML file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
import polars as pl

from elicitation.calibration.leak import LEAKS, NOT_MEASURED
from elicitation.calibration.record import AGREEMENT, RECORDS, TRIALS
from elicitation.report.calibration import captions as captions
from elicitation.report.calibration.answer import calibration_answer
from elicitation.report.calibration.share_panels import drawable, share_key, share_panels
from elicitation.report.calibration.tables import (
    agreement_table,
    alarms_table,
    cost_table,
    forgetting_table,
    kinds_table,
    leaks_table,
    path_table,
    published_records,
    records_table,
    refused_list,
)
from elicitation.report.kit.canvas import WIDE, Canvas
from elicitation.report.kit.document import document
from elicitation.report.kit.dot_plot import Dot, dot_plot
from elicitation.report.kit.markup import escaped, numbers
from elicitation.report.kit.palette import ArmStyle, completed
from elicitation.report.kit.plot_block import plot_block
from elicitation.report.kit.provenance_section import TableFile, provenance_section, sources
from elicitation.report.study.captions import PROVENANCE
from elicitation.report.study.forgetting_scatter import FORGETTING, fitted_line, forgetting_scatter
from lab.records.numerals import interval, percent, points
from lab.records.provenance import Provenance
from lab.records.tables import Column, Schema

PATH = Schema(
    "path",
    (
        Column("base", pl.String, "the model that every route starts from"),
        Column("task", pl.String, "the task it is trained and tested on"),
        Column("route", pl.String, "how it was trained, such as `one round` or `many rounds`"),
        Column("value", pl.Float64, "strict accuracy it reaches, a fraction"),
        Column("low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("high", pl.Float64, "upper end of its 95 % interval over problems"),
    ),
)


def path_plot(path: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """One row for each row of `PATH`, the first on top; a route has one ink."""
    styles = completed({}, PATH.checked(path)["route"].unique(maintain_order=True))
    dots = [_dot(row, styles[row["route"]], canvas) for row in path.reverse().iter_rows(named=True)]
    return dot_plot(dots, canvas, axis="Problems solved at the first try, strict")


def _dot(row: Mapping[str, Any], style: ArmStyle, canvas: Canvas) -> Dot:
    note = f"{percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}".strip() if canvas.note_room else ""
    name = f"{row['route']} · {row['base']}, {row['task']}"
    return Dot(name=name, value=row["value"], low=row["low"], high=row["high"], style=style, note=note)


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
        captions.RECORDS
        + published_records(page.records)
        + records_table(page.records)
        + sources(page.files, "records"),
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
