"""Summary: the ladder for a terminal."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from elicitation.calibration.leak import NOT_MEASURED, leak
from elicitation.report.kit.markup import visible
from elicitation.report.study.record_words import leak_figures, rungs
from lab.records.numerals import ABSENT, bits, interval, percent, points

WIDE_ONLY = ("answer only", "gain, points", "over control", "leak")
ROOM_FOR_ALL = 130
"""Columns of a terminal that hold the whole table; a narrower one is shown without the columns of `WIDE_ONLY`."""


def summary(ladder: pl.DataFrame, width: int = ROOM_FOR_ALL, leaks: pl.DataFrame = NOT_MEASURED) -> Table:
    """The ladder as a table for a terminal of `width` columns: the tuned model on top, refusals spelt out below.

    `leaks` is a `LEAKS` table; arms that are not in it are said to be not measured.
    """
    strict = rungs(ladder, "strict")
    answers = dict(ladder.filter(pl.col("measure") == "answer").select("arm", "accuracy").iter_rows())
    table = Table(title="Strict pass@1, with 95 % intervals over problems", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("strict", "answer only", "gain, points", "over control", "share of gain", "leak", "bits/token"):
        if heading in WIDE_ONLY and width < ROOM_FOR_ALL:
            continue
        table.add_column(heading, justify="right", no_wrap=True)
    reasons: list[str] = []
    for row in reversed(strict.to_dicts()):
        style = {"end": "bold", "rung": "", "control": "dim"}[row["kind"]]
        if row["refusal"] is not None:
            share = "refused"
            reasons += [] if row["refusal"] in reasons else [row["refusal"]]
        elif math.isnan(row["share"]) or row["kind"] == "end":
            share = ABSENT
        else:
            share = f"{percent(row['share'], 0)} {interval(row['share_low'], row['share_high'], 0)}"
        indent = "  └ " if row["kind"] == "control" else ""
        wide_only = (
            percent(answers.get(row["arm"], math.nan)),
            Text(f"{points(row['gain'])} {interval(row['gain_low'], row['gain_high'])}"),
            Text(_over_control(row)),
        )
        table.add_row(
            Text(indent + visible(row["label"])),
            percent(row["accuracy"]),
            *(wide_only if width >= ROOM_FOR_ALL else ()),
            Text(share),
            *((Text(_leak(row, leaks)),) if width >= ROOM_FOR_ALL else ()),
            bits(row["bits_per_token"]),
            style=style,
        )
    if reasons:
        table.caption = Text("Refused: " + "; ".join(map(visible, reasons)))
        table.caption_justify = "left"
    return table


def _leak(row: Mapping[str, Any], leaks: pl.DataFrame) -> str:
    return ABSENT if row["kind"] == "end" else " ".join(leak_figures(leak(leaks, row["arm"]))).rstrip()


def _over_control(row: Mapping[str, Any]) -> str:
    """Points by which a rung exceeds its best control."""
    if row["kind"] != "rung":
        return ABSENT
    span = interval(row["over_control_low"], row["over_control_high"])
    return f"{points(row['over_control'])} {span}".strip()
