"""Published: the published methods, what their own formula says and what the same answers say here, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import filled
from elicitation.pages.kit.numerals import PERCENT, percent, remarked
from elicitation.pages.kit.table import Reasons, sheet, titled
from elicitation.pages.study.ladder import share_cell

METHODS = {
    "P1": "The tuned model says at every token whether to steer and with which vector, and picks the token among many "
    "steered candidates of the base. What it reaches depends on how its vectors came out of their fit: "
    "these numbers are those of one such draw, which their intervals do not cover.",
    "P2": "The tuned model says at every token whether to steer and with which vector; the base writes the token that "
    "the one steered pass prefers.",
}
"""Published method -> what it does at test time."""
_HEADINGS = ("", "Strict", "Their formula", "Share, ours", "True share", "What the difference means")
_SAME = 0.005
"""Two fractions closer than this are written alike."""


def published_section(published_hybrids: pl.DataFrame) -> Markup:
    """`PUBLISHED` as one table a method, as published first, then with each fault switched; empty without rows."""
    if published_hybrids.is_empty():
        return Markup("")
    reasons = Reasons.of(published_hybrids["refusal"])
    ordered = published_hybrids.sort(pl.col("fault").is_not_null(), maintain_order=True)
    blocks = [
        (
            name,
            METHODS.get(name, ""),
            sheet(
                _HEADINGS,
                [_cells(row, reasons) for row in ordered.filter(pl.col("published") == name).iter_rows(named=True)],
                {_HEADINGS[-1]},
            ),
        )
        for name in published_hybrids["published"].unique(maintain_order=True)
    ]
    return filled("study/published.html", blocks=blocks, reasons=reasons.notes())


def _cells(row: Mapping[str, Any], reasons: Reasons) -> tuple[str, ...]:
    return (
        titled(row["label"], row["fault"] or "as published"),
        PERCENT.cell(row, "accuracy"),
        remarked(percent(row["theirs"], 0), "no interval"),
        share_cell(row, reasons),
        percent(row["truth"], 0),
        difference_words(row),
    )


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
    if not math.isnan(truth := row["truth"]):
        held = "inside" if low <= truth <= high else "outside"
        off = f"their number is {100 * abs(theirs - truth):.0f} points from it"
        parts.append(f"The true share is {held} our interval; {off}.")
    return " ".join(parts)
