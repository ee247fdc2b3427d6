"""Estimates: what every estimator asks and answers, its record, and which of the answers agree, as HTML."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import PAGES, counted, filled, joined, markup
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
            WHOLE.cell(row) if row["refusal"] is None else reasons.refused(row["refusal"]),
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
            remarked(*quantity(row["unit"], row["value"], row["low"], row["high"]))
            if row["refusal"] is None
            else reasons.refused(row["refusal"]),
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
    pairs = [(a, b) for a, b in combinations(given, 2) if a["estimator"] != b["estimator"] or _reason(a, b)]
    if not pairs:
        return Markup("")
    agreeing = [(a, b) for a, b in pairs if _holds(a, b) and _holds(b, a)]
    differing = [pair for pair in pairs if pair not in agreeing]
    if not differing:
        agree = '<p class="note">The {} shares given agree: each lies within the interval of every other.</p>'
        return markup(agree, len(given))
    named = "; ".join(f"{_name(a)} and {_name(b)}" for a, b in agreeing)
    within = (
        markup('<p class="note"><b>Within each other\'s intervals</b> are {}.</p>', named)
        if agreeing
        else Markup('<p class="note">No two shares lie within each other\'s intervals.</p>')
    )
    return within + _differed(differing, len(pairs))


def _differed(pairs: Sequence[tuple[Row, Row]], n_compared: int) -> Markup:
    """All that differ, grouped by the reason that is known for it."""
    groups: dict[str, list[str]] = {}
    for a, b in pairs:
        apart = a["low"] > b["high"] or b["low"] > a["high"]
        said = f"{_brief(a)} and {_brief(b)}" + ("" if apart else ", whose intervals overlap")
        groups.setdefault(_reason(a, b) or _UNKNOWN, []).append(said)
    items = joined(
        markup("<li>{}:{}</li>", reason[0].upper() + reason[1:], numbers(counted(len(found), "pair"), _list(found)))
        for reason, found in groups.items()
    )
    return markup(
        '<div class="warning"><b>Not within each other\'s intervals</b> are {} of the {} that can be compared. '
        "Why they need not be:<ul>{}</ul></div>",
        len(pairs),
        counted(n_compared, "pair"),
        items,
    )


def _list(items: Sequence[str]) -> Markup:
    return markup("<ul>{}</ul>", joined(markup("<li>{}</li>", said) for said in items))


def _holds(row: Row, other: Row) -> bool:
    return other["low"] <= row["value"] <= other["high"]


def _reason(a: Row, b: Row) -> str:
    return declared_reason(*(f"{row['estimator']} {row['quantity']}" for row in (a, b)))


def _name(row: Row) -> str:
    return f"{row['estimator']} ({row['quantity']})"


def _brief(row: Row) -> str:
    return f"{_name(row)}: {WHOLE.said(row)}"
