"""Ladder table: every number behind the ladder figure, as HTML; on a narrow screen each row is a card."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.calibration.leak import Leak, leak
from elicitation.report.kit.markup import escaped
from elicitation.report.study.answer import best_estimate
from elicitation.report.study.record_words import counted, is_leaky, leak_figures, rungs, silent_figures
from lab.records.numerals import ABSENT, bits, interval, percent, points, span

_HEADINGS = (
    "",
    "Strict",
    "Answer only",
    "Gain over base, points",
    "Share of the gain",
    "Leak",
    "Over its best control, points",
    "Tokens steered",
    "Bits per token from tuned",
)


def ladder_table(ladder: pl.DataFrame, leaks: pl.DataFrame) -> str:
    """`LADDER` with the tuned model first, as in the figure, and what `LEAKS` says of each arm.

    A refused share carries a number that points to its reason below.
    """
    answers = {row["arm"]: row for row in ladder.filter(pl.col("measure") == "answer").iter_rows(named=True)}
    rows = rungs(ladder, "strict").reverse()
    reasons = rows["refusal"].drop_nulls().unique(maintain_order=True).to_list()
    body = "".join(
        _row(row, answers.get(row["arm"]), leak(leaks, row["arm"]), reasons) for row in rows.iter_rows(named=True)
    )
    head = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    notes = "".join(f"<li>{escaped(reason)}</li>" for reason in reasons)
    refused = f'<div class="refusals"><p>Why a share is refused:</p><ol>{notes}</ol></div>' if reasons else ""
    table = f'<table class="ladder"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>{refused}'


def _row(row: Mapping[str, Any], answer: Mapping[str, Any] | None, leaked: Leak | None, reasons: list[str]) -> str:
    kind = {"end": "end", "rung": "rung", "control": "control"}[row["kind"]]
    prefix = '<span class="role">control</span> ' if kind == "control" else ""
    steered = row["steered_share"]
    cells = (
        _number(percent(row["accuracy"]), interval(row["low"], row["high"])),
        _number(percent(answer["accuracy"]), interval(answer["low"], answer["high"])) if answer else ABSENT,
        _number(points(row["gain"]), interval(row["gain_low"], row["gain_high"])) if _moved(row) else ABSENT,
        _share(row, reasons),
        ABSENT if kind == "end" else _leak(leaked),
        _over_control(row),
        percent(steered, 0 if steered >= 0.1 or steered == 0 else 1),
        _bits(row),
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


def _leak(found: Leak | None) -> str:
    value, ends = leak_figures(found)
    flagged = f'<span class="no">{value}</span>' if is_leaky(found) else value
    return _number(flagged, ends, silent_figures(found))


def _bits(row: Mapping[str, Any]) -> str:
    """Bits a token with their interval, those of a completion, and what an answer costs where it is not one sample."""
    asks = 0 < row["bits_per_token"] < math.inf
    return _number(
        bits(row["bits_per_token"]),
        span(row["bits_low"], row["bits_high"], bits) if asks else "",
        f"{bits(row['bits_per_problem'])} a problem" if asks and not math.isnan(row["bits_per_problem"]) else "",
        f"{row['cost']:.3g}\u202f× the tokens" if row["cost"] != 1 and not math.isnan(row["cost"]) else "",
    )


def _over_control(row: Mapping[str, Any]) -> str:
    """Only a rung has controls."""
    if row["kind"] != "rung":
        return ABSENT
    return _number(points(row["over_control"]), interval(row["over_control_low"], row["over_control_high"]))


def _number(value: str, *remarks: str) -> str:
    return " ".join([value, *(f'<span class="span">{remark}</span>' for remark in remarks if remark)])


def glance(
    ladder: pl.DataFrame, estimates: pl.DataFrame, records: pl.DataFrame, compared: str, *, process_checked: bool
) -> str:
    """`compared` names the two models and the problems, in plain text; a row that has nothing to say is left out."""
    rows = {
        "Compared": f"{compared}, up to {counted(_n_samples(ladder), 'sample')} of each",
        "Already in the base": best_estimate(estimates, records),
        "How sure": f"{_counted_as(process_checked)} Brackets are 95 % intervals over problems.{_spread(estimates)}",
    }
    entries = "".join(f"<div><dt>{name}</dt><dd>{escaped(said)}</dd></div>" for name, said in rows.items() if said)
    return f'<dl class="glance">{entries}</dl>'


def _n_samples(ladder: pl.DataFrame) -> int:
    return max(rungs(ladder, "strict")["n_samples"])


def _counted_as(process_checked: bool) -> str:
    if process_checked:
        return "An answer counts only if every step that leads to it is valid."
    return "Answers alone are counted: this task's process cannot be checked."


def _spread(estimates: pl.DataFrame) -> str:
    """How far the estimators' shares lie apart; empty where fewer than two were given."""
    shares = estimates.filter(pl.col("unit") == "share", pl.col("refusal").is_null(), pl.col("value").is_not_nan())
    if shares["estimator"].n_unique() < 2:
        return ""
    values = shares["value"].sort()
    low, high = percent(values[0], 0), percent(values[-1], 0)
    return f" By other ways of estimating, the share lies anywhere from {low} to {high}; each asks its own question."
