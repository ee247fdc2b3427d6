"""Vector transfers: the vectors on other models, on other skills, and backwards, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.markup import escaped
from lab.report.numerals import figures, interval, percent, points
from lab.report.sheet import sheet, with_span
from lab.report.vector_captions import TRANSFERS
from lab.report.vector_ledger import VectorLedger

_CHECKS = {
    "removes": "subtracted from the tuned model",
    "other base": "on another base",
    "other skill": "where there is nothing to elicit",
}


def transfer_block(ledger: VectorLedger) -> str:
    """One row a fit and check, strict; empty where there is none."""
    strict = ledger.transfers.filter(pl.col("quantity") == "strict")
    if strict.is_empty():
        return ""
    labels = dict(ledger.effects.select("fit", "label").iter_rows())
    rows = [_row(row, labels) for row in strict.iter_rows(named=True)]
    headings = ("", "Strict without", "With the vector", "With random ones", "Change, points", "Beyond random, points")
    return f'{TRANSFERS.head(2)}{sheet(headings, rows)}<p class="note">{TRANSFERS.key}</p>'


def _row(row: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    check = _CHECKS.get(row["check"], row["check"])
    where = f"{check}: {row['model']}, {row['task']}, dose {figures(row['dose'])}"
    return (
        f'{escaped(labels.get(row["fit"], row["fit"]))}<span class="what">{escaped(where)}</span>',
        percent(row["plain"]),
        percent(row["steered"]),
        percent(row["control"]),
        with_span(points(row["change"]), interval(row["change_low"], row["change_high"])),
        with_span(points(row["beyond"]), interval(row["beyond_low"], row["beyond_high"])),
    )
