"""Estimates section: all estimators' answers to one study side by side, each with its calibration record, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.agreement_words import agreement_words
from lab.report.best_estimate import best_estimate
from lab.report.markup import escaped
from lab.report.numbers import numbers
from lab.report.numerals import interval, percent
from lab.report.quantity import quantity
from lab.report.quantity_words import quantity_words
from lab.report.reasons import Reasons
from lab.report.record_words import counted, record_words
from lab.report.sheet import sheet, with_span

ASKS = {
    "E1": ("Strict coverage", "Does the base ever solve the problem, in many tries and by a valid process?"),
    "E2": (
        "Reach",
        "How likely is the base to solve the problem? Read off samples of both models, weighted by how likely the "
        "base was to write each, so that chances too small for the base's own samples still show.",
    ),
    "E3": ("Selection", "How much of the change is mere selection among what the base already writes?"),
    "E4": ("Tokens", "At which tokens do the two models differ, and does writing those for the base bring the gain?"),
    "E5": ("Steering", "How far does one vector, added inside the base where its answer begins, get it?"),
    "E8": ("Process", "Do the written steps carry the answer, or was it settled before them?"),
    "E10": ("Forgetting", "What did the tuning cost on a task that it was not about?"),
}
"""Estimator -> its name and what it asks."""
_HEAD = (
    "<h2>Estimates side by side</h2>"
    "<p>How much of the tuned model's gain was already in the base model, by every method the lab has. Each asks its "
    "own question, so they need not agree: go by the record beside each, which says how well it did on organisms, "
    "models trained so that the true share is known.</p>"
)
_KEY = (
    '<p class="note">Brackets are 95 % intervals, resampling problems. A <b>mean error</b> is the distance to the '
    "true share; the <b>leak</b> is the share found where the tuned model was taught all of it and the true share is "
    "0; a <b>false alarm</b> is a share given where there is none to give.</p>"
)
_COLUMNS = ("What was measured", "Estimate")
_SHARE, _RECORD = "Share already in the base", "Calibration record"


def estimates_section(estimates: pl.DataFrame, records: pl.DataFrame) -> str:
    """`ESTIMATES` of a study and the `RECORDS` of the estimators' calibration; empty where there are no estimates."""
    if estimates.is_empty():
        return ""
    reasons = Reasons.of(estimates["refusal"].drop_nulls())
    shares = estimates.filter(pl.col("unit") == "share")
    names = sorted(estimates["estimator"].unique(), key=_place)
    others = estimates.filter(pl.col("unit") != "share")
    blocks = (_block(name, others.filter(pl.col("estimator") == name), reasons) for name in names)
    best = best_estimate(estimates, records)
    lead = f'<p class="lead">{escaped(best)}</p>' if best else ""
    return f"{_HEAD}{lead}{_shares(shares, records, reasons)}{reasons.notes()}{''.join(blocks)}"


def _place(name: str) -> tuple[int, str]:
    """E2 before E10; what is unknown comes last."""
    number = name.removeprefix("E")
    return (int(number) if number.isdecimal() else len(ASKS) + 99, name)


def _shares(shares: pl.DataFrame, records: pl.DataFrame, reasons: Reasons) -> str:
    if shares.is_empty():
        return "<p>No estimator gives a share of the gain here.</p>"
    known = {(row["estimator"], row["quantity"]): row for row in records.iter_rows(named=True)}
    ordered = sorted(shares.to_dicts(), key=lambda row: _place(row["estimator"]))
    rows = [
        (
            f"{escaped(row['estimator'])} · {escaped(row['quantity'])}{_meaning(row)}",
            _value(row, reasons),
            escaped(record_words(known.get((row["estimator"], row["quantity"])))),
        )
        for row in ordered
    ]
    return f"{sheet(('', _SHARE, _RECORD), rows, {_RECORD})}{agreement_words(ordered)}{_KEY}"


def _block(name: str, others: pl.DataFrame, reasons: Reasons) -> str:
    """What an estimator asks, and what it found beside a share."""
    asks = f"<p>{ASKS[name][1]}</p>" if name in ASKS else ""
    rows = [(escaped(row["quantity"]) + _meaning(row), _value(row, reasons)) for row in others.iter_rows(named=True)]
    table = numbers(f"{counted(len(rows), 'number')} beside the share", sheet(_COLUMNS, rows)) if rows else ""
    return f"<h3>{_title(name)}</h3>{asks}{table}"


def _meaning(row: Mapping[str, Any]) -> str:
    words = quantity_words(row["estimator"], row["quantity"])
    return f'<span class="what">{escaped(words)}</span>' if words else ""


def _title(name: str) -> str:
    return f"{escaped(name)} · {ASKS[name][0]}" if name in ASKS else escaped(name)


def _value(row: Mapping[str, Any], reasons: Reasons) -> str:
    if row["refusal"] is not None:
        return f"refused{reasons.marks([row['refusal']])}"
    if row["unit"] == "share":
        return with_span(percent(row["value"], 0), interval(row["low"], row["high"], 0))
    value, span = quantity(row["unit"], row["value"], row["low"], row["high"])
    return with_span(escaped(value), span)
