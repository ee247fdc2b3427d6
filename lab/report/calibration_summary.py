"""Calibration summary: the records for a terminal."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from lab.report.calibration_answer import calibration_answer
from lab.report.markup import visible
from lab.report.numerals import ABSENT, percent, points

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
