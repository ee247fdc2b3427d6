"""Rivals section: two published methods, what their own formula says and what the same answers say here, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.report.kit.canvas import sheet, with_span
from elicitation.report.kit.markup import Reasons, escaped
from lab.records.numerals import ABSENT, interval, percent

METHODS = {
    "P1": "The tuned model says at every token whether to steer and with which vector, and picks the token among many "
    "steered candidates of the base. What it reaches depends on how its vectors came out of their fit: "
    "these numbers are those of one such draw, which their intervals do not cover.",
    "P2": "The tuned model says at every token whether to steer and with which vector; the base writes the token that "
    "the one steered pass prefers.",
}
"""Rival -> what it does at test time."""
_HEAD = (
    "<h2>Two published methods, by their formula and by ours</h2>"
    "<p>The same answers, counted twice. <b>Their formula</b> is the distance from the lower of the two models' "
    "accuracies over the distance between the models: it has no sign, is never below 0, has no interval, and is given "
    "however small the gap. <b>Ours</b> is the gain over the base over the tuned model's gain: it keeps its sign, has "
    "a 95 % interval, and is refused where the gap is noise. Both read the tuned model while they write.</p>"
)
_HEADINGS = ("", "Strict", "Their formula", "Share, ours", "True share", "What the difference means")
_SAME = 0.005
"""Two fractions closer than this are written alike."""


def published_section(published_hybrids: pl.DataFrame) -> str:
    """`PUBLISHED` as one table a method, as published first, then with each fault switched; empty without rows."""
    if published_hybrids.is_empty():
        return ""
    reasons = Reasons.of(published_hybrids["refusal"].drop_nulls())
    names = published_hybrids["published"].unique(maintain_order=True)
    blocks = (_block(name, published_hybrids.filter(pl.col("published") == name), reasons) for name in names)
    return f"{_HEAD}{''.join(blocks)}{reasons.notes()}"


def difference_words(row: Mapping[str, Any]) -> str:
    """What it means that the two formulas differ on a row of `PUBLISHED`, or do not; plain text."""
    theirs, share, low, high = row["theirs"], row["share"], row["share_low"], row["share_high"]
    if math.isnan(theirs):
        return "Their formula is not defined where both models do equally well."
    if row["refusal"] is not None:
        return (
            "The models are too close to share out what lies between them; their formula gives a number all the same."
        )
    if math.isnan(share):
        return "Ours is not defined here."
    if row["gap"] < 0:
        parts = ["Tuning made the model worse; their formula leaves out the sign."]
    elif share < 0 and theirs < _SAME:
        parts = ["The method does worse than the base; their formula says 0."]
    elif abs(theirs - share) < _SAME:
        parts = ["The same number; only ours says how far to trust it."]
    else:
        parts = ["On equal accuracies the two formulas would agree here, so the answers were counted differently."]
    if low <= 0 <= high:
        parts.append("The interval holds 0: it may recover nothing.")
    return " ".join([*parts, _against_truth(row)]).rstrip()


def _against_truth(row: Mapping[str, Any]) -> str:
    truth = row["truth"]
    if math.isnan(truth):
        return ""
    held = row["share_low"] <= truth <= row["share_high"]
    off = f"their number is {100 * abs(row['theirs'] - truth):.0f} points from it"
    return f"The true share is {'inside' if held else 'outside'} our interval; {off}."


def _block(name: str, rows: pl.DataFrame, reasons: Reasons) -> str:
    does = f"<p>{METHODS[name]}</p>" if name in METHODS else ""
    ordered = rows.sort(pl.col("fault").is_not_null(), maintain_order=True)
    cells = [_cells(row, reasons) for row in ordered.iter_rows(named=True)]
    return f"<h3>{escaped(name)}</h3>{does}{sheet(_HEADINGS, cells, {_HEADINGS[-1]})}"


def _cells(row: Mapping[str, Any], reasons: Reasons) -> tuple[str, ...]:
    switched = "as published" if row["fault"] is None else row["fault"]
    return (
        f'{escaped(row["label"])}<span class="what">{escaped(switched)}</span>',
        with_span(percent(row["accuracy"]), interval(row["low"], row["high"])),
        with_span(percent(row["theirs"], 0), "no interval"),
        _share(row, reasons),
        ABSENT if math.isnan(row["truth"]) else percent(row["truth"], 0),
        escaped(difference_words(row)),
    )


def _share(row: Mapping[str, Any], reasons: Reasons) -> str:
    if row["refusal"] is not None:
        return f"refused{reasons.marks([row['refusal']])}"
    return with_span(percent(row["share"], 0), interval(row["share_low"], row["share_high"], 0))
