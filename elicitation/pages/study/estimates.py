"""Estimates: what every estimator asks and answers, its record, and which of the answers agree, as HTML."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import PAGES, counted, filled
from elicitation.pages.kit.numerals import ABSENT, FIGURES, PERCENT, POINTS, WHOLE, percent, remarked, scientific, span
from elicitation.pages.kit.table import Reasons, numbers, sheet, titled
from elicitation.pages.record_words import record_words
from elicitation.pages.study.ladder import best_estimate

_WORDS = tomllib.loads((PAGES / "study" / "estimators.toml").read_text(encoding="utf-8"))
ASKS: dict[str, tuple[str, str]] = {
    name: (known["name"], known["asks"]) for name, known in _WORDS["estimators"].items()
}
"""Estimator -> its name and what it asks."""
REASONS: dict[tuple[str, str], str] = {
    (reason["first"], reason.get("second", "")): reason["words"] for reason in _WORDS["reasons"]
}
"""How estimator and quantity of two shares begin, in either order, the second empty for any -> why they may differ."""


def quantity_words(estimator: str, quantity: str) -> str:
    """The meaning in plain words; empty for a quantity that is not known here."""
    meanings: dict[str, str] = _WORDS["estimators"].get(estimator, {}).get("quantities", {})
    return next((words for start, words in meanings.items() if quantity.startswith(start)), "")


def declared_reason(one: str, other: str) -> str:
    """Why two shares, each an estimator and a quantity, may differ; empty where no reason is known.

    Two of one estimator need a reason that speaks of both.
    """
    same = one.split(" ")[0] == other.split(" ")[0]
    for (first, second), words in REASONS.items():
        fits = any(_begins(a, first) and _begins(b, second) for a, b in ((one, other), (other, one)))
        if fits and (second or not same):
            return words
    return ""


def _begins(name: str, start: str) -> bool:
    return not start or f"{name} ".startswith(f"{start} ")


Row = Mapping[str, Any]
"""A row of `ESTIMATES`."""
_OF = {"share": "of the gain", "tokens": "of tokens", "problems": "of problems"}
"""What a fraction is a fraction of; a probability needs no word."""
_TINY = 0.001
_UNKNOWN = "no reason is known to the lab"


def quantity(unit: str, value: float, low: float, high: float) -> tuple[str, str]:
    """(value with its unit, interval), both plain text; the interval is empty where it is undefined.

    `unit` is one of `estimate.Unit`; shares, probabilities, points, tokens and problems are fractions.
    """
    if math.isnan(value):
        return ABSENT, ""
    if unit == "points":
        return f"{POINTS.write(value)} points", POINTS.span(low, high)
    if unit in ("share", "probability", "tokens", "problems"):
        tiny = any(0 < abs(end) < _TINY for end in (value, low, high))
        write = _small if tiny else percent
        written = span(low, high, write) if tiny else PERCENT.span(low, high)
        return f"{write(value)} {_OF.get(unit, '')}".rstrip(), written
    return f"{FIGURES.write(value)} {unit}", FIGURES.span(low, high)


def _small(fraction: float) -> str:
    """A fraction too small for percent: 3.2·10⁻⁶."""
    return percent(fraction) if fraction == 0 or abs(fraction) >= 0.1 else scientific(fraction)


def estimates_section(estimates: pl.DataFrame, records: pl.DataFrame) -> Markup:
    """`ESTIMATES` of a study and the `RECORDS` of the estimators' calibration; empty where there are no estimates."""
    if estimates.is_empty():
        return Markup("")
    reasons = Reasons.of(estimates["refusal"])
    shares = sorted(estimates.filter(pl.col("unit") == "share").to_dicts(), key=lambda row: _place(row["estimator"]))
    others = estimates.filter(pl.col("unit") != "share")
    blocks = [
        (*ASKS.get(name, ("", "")), name, _beside(others.filter(pl.col("estimator") == name), reasons))
        for name in sorted(estimates["estimator"].unique(), key=_place)
    ]
    return filled(
        "study/estimates.html",
        best=best_estimate(estimates, records),
        shares=_shares(shares, records, reasons),
        agreement=agreement_words(shares),
        reasons=reasons.notes(),
        blocks=blocks,
    )


def _place(name: str) -> tuple[int, str]:
    """E2 before E10; what is unknown comes last."""
    number = name.removeprefix("E")
    return (int(number) if number.isdecimal() else len(ASKS) + 99, name)


def _shares(shares: Sequence[Row], records: pl.DataFrame, reasons: Reasons) -> Markup:
    known = {(row["estimator"], row["quantity"]): row for row in records.iter_rows(named=True)}
    rows = [
        (
            titled(f"{row['estimator']} · {row['quantity']}", quantity_words(row["estimator"], row["quantity"])),
            reasons.cell(row, WHOLE.cell(row)),
            record_words(known.get((row["estimator"], row["quantity"]))),
        )
        for row in shares
    ]
    record = "Calibration record"
    return sheet(("", "Share already in the base", record), rows, {record})


def _beside(others: pl.DataFrame, reasons: Reasons) -> Markup:
    """What an estimator found beside a share."""
    rows = [
        (
            titled(row["quantity"], quantity_words(row["estimator"], row["quantity"])),
            reasons.cell(row, remarked(*quantity(row["unit"], row["value"], row["low"], row["high"]))),
        )
        for row in others.iter_rows(named=True)
    ]
    table = sheet(("What was measured", "Estimate"), rows)
    return numbers(f"{counted(len(rows), 'number')} beside the share", table) if rows else table


def agreement_words(shares: Sequence[Row]) -> Markup:
    """Two shares agree if each lies in the other's interval. Empty where fewer than two can be compared.

    Shares of one estimator are compared only where the lab knows why both may differ, since they are otherwise parts or
    variants of one answer. Reasons are declared, never read off the numbers.
    """
    given = [row for row in shares if row["refusal"] is None and WHOLE.span(row["low"], row["high"])]
    agreeing: list[str] = []
    apart: dict[str, list[str]] = {}
    for a, b in combinations(given, 2):
        reason = declared_reason(*(f"{row['estimator']} {row['quantity']}" for row in (a, b)))
        names = [f"{row['estimator']} ({row['quantity']})" for row in (a, b)]
        if a["estimator"] == b["estimator"] and not reason:
            continue
        if all(one["low"] <= other["value"] <= one["high"] for one, other in ((a, b), (b, a))):
            agreeing.append(" and ".join(names))
        else:
            said = " and ".join(f"{name}: {WHOLE.said(row)}" for name, row in zip(names, (a, b), strict=True))
            overlap = a["low"] <= b["high"] and b["low"] <= a["high"]
            apart.setdefault(reason or _UNKNOWN, []).append(said + ", whose intervals overlap" * overlap)
    return filled("study/agreement.html", n_given=len(given), agreeing=agreeing, apart=apart)


_HEADINGS = ("", "Strict", "Their formula", "Share, ours", "True share", "What the difference means")
_SAME = 0.005
"""Two fractions closer than this are written alike."""


def published_section(published_hybrids: pl.DataFrame) -> Markup:
    """`PUBLISHED` as one table a method, as published first, then with each fault switched; empty without rows."""
    if published_hybrids.is_empty():
        return Markup("")
    reasons = Reasons.of(published_hybrids["refusal"])
    cells: dict[str, list[tuple[str, ...]]] = {}
    for row in published_hybrids.sort(pl.col("fault").is_not_null(), maintain_order=True).iter_rows(named=True):
        cells.setdefault(row["published"], []).append(_cells(row, reasons))
    tables = {name: sheet(_HEADINGS, rows, {_HEADINGS[-1]}) for name, rows in cells.items()}
    return filled("study/published.html", tables=tables, reasons=reasons.notes())


def _cells(row: Mapping[str, Any], reasons: Reasons) -> tuple[str, ...]:
    return (
        titled(row["label"], row["fault"] or "as published"),
        PERCENT.cell(row, "accuracy"),
        remarked(percent(row["theirs"], 0), "no interval"),
        reasons.cell(row, WHOLE.cell(row, "share")),
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
