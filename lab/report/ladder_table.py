"""Ladder table: every number behind the ladder figure, as HTML; on a narrow screen each row is a card."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.markup import escaped
from lab.report.numerals import ABSENT, bits, interval, percent, points
from lab.report.rungs import rungs

_HEADINGS = (
    "",
    "Strict",
    "Answer only",
    "Gain over base, points",
    "Share of the gain",
    "Over its best control, points",
    "Tokens steered",
    "Bits per token from tuned",
)


def ladder_table(ladder: pl.DataFrame) -> str:
    """Tuned model first, as in the figure; a refused share carries a number that points to its reason below."""
    answers = {row["arm"]: row for row in ladder.filter(pl.col("measure") == "answer").iter_rows(named=True)}
    rows = rungs(ladder, "strict").reverse()
    reasons = rows["refusal"].drop_nulls().unique(maintain_order=True).to_list()
    body = "".join(_row(row, answers.get(row["arm"]), reasons) for row in rows.iter_rows(named=True))
    head = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    notes = "".join(f"<li>{escaped(reason)}</li>" for reason in reasons)
    refused = f'<div class="refusals"><p>Why a share is refused:</p><ol>{notes}</ol></div>' if reasons else ""
    return f'<table class="ladder"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{refused}'


def _row(row: Mapping[str, Any], answer: Mapping[str, Any] | None, reasons: list[str]) -> str:
    kind = {"end": "end", "rung": "rung", "control": "control"}[row["kind"]]
    prefix = '<span class="role">control</span> ' if kind == "control" else ""
    steered = row["steered_share"]
    cells = (
        _number(percent(row["accuracy"]), interval(row["low"], row["high"])),
        _number(percent(answer["accuracy"]), interval(answer["low"], answer["high"])) if answer else ABSENT,
        _number(points(row["gain"]), interval(row["gain_low"], row["gain_high"])) if _moved(row) else ABSENT,
        _share(row, reasons),
        _over_control(row),
        percent(steered, 0 if steered >= 0.1 or steered == 0 else 1),
        bits(row["bits_per_token"]),
    )
    marked = "".join(
        f'<td data-heading="{heading}"><div>{cell}</div></td>'
        for heading, cell in zip(_HEADINGS[1:], cells, strict=True)
    )
    return f'<tr class="{kind}"><th scope="row">{prefix}{escaped(row["label"])}</th>{marked}</tr>'


def _moved(row: Mapping[str, Any]) -> bool:
    """The base has no gain over itself."""
    return not (row["kind"] == "end" and row["gain"] == 0)


def _share(row: Mapping[str, Any], reasons: list[str]) -> str:
    if row["refusal"] is not None:
        return f"refused<sup>{reasons.index(row['refusal']) + 1}</sup>"
    if row["kind"] == "end" or math.isnan(row["share"]):
        return ABSENT
    return _number(percent(row["share"], 0), interval(row["share_low"], row["share_high"], 0))


def _over_control(row: Mapping[str, Any]) -> str:
    """Only a rung has controls."""
    if row["kind"] != "rung":
        return ABSENT
    return _number(points(row["over_control"]), interval(row["over_control_low"], row["over_control_high"]))


def _number(value: str, span: str) -> str:
    return f'{value} <span class="span">{span}</span>' if span else value
