"""Estimates section: all estimators' answers to one study side by side, each with its calibration record, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.report.kit.canvas import sheet, with_span
from elicitation.report.kit.markup import Reasons, escaped, numbers
from elicitation.report.study.agreement_words import agreement_words
from elicitation.report.study.answer import best_estimate
from elicitation.report.study.record_words import counted, record_words
from lab.records.numerals import ABSENT, figures, interval, percent, points, scientific, span

_OF = {"share": "of the gain", "tokens": "of tokens", "problems": "of problems"}
"""What a fraction is a fraction of; a probability needs no word."""
_TINY = 0.001


def quantity(unit: str, value: float, low: float, high: float) -> tuple[str, str]:
    """(value with its unit, interval), both plain text; the interval is empty where it is undefined.

    `unit` is one of `estimate.Unit`; shares, probabilities, points, tokens and problems are fractions.
    """
    if math.isnan(value):
        return ABSENT, ""
    if unit == "points":
        return f"{points(value)} points", interval(low, high)
    if unit in ("share", "probability", "tokens", "problems"):
        tiny = any(0 < abs(end) < _TINY for end in (value, low, high))
        write = _small if tiny else percent
        written = span(low, high, write) if tiny else interval(low, high)
        return f"{write(value)} {_OF.get(unit, '')}".rstrip(), written
    return f"{figures(value)} {unit}", span(low, high)


def _small(fraction: float) -> str:
    """A fraction too small for percent: 3.2·10⁻⁶."""
    return percent(fraction) if fraction == 0 or abs(fraction) >= 0.1 else scientific(fraction)


_MEANINGS = (
    ("E1", "strict pass@1,", "solved at the first try by a valid process"),
    ("E1", "strict pass@", "solved at least once in that many tries"),
    ("E1", "tuned minus base, pass@", "how much more the tuned model solves in that many tries"),
    ("E1", "Cover@", "problems solved at least that fraction of the time"),
    ("E1", "SRR", "of the problems that the base solved, those that the tuned model still solves"),
    ("E1", "NDR", "of the problems that the tuned model solved, those that the base never did"),
    ("E1", "SDS", "harmonic mean of the two above"),
    ("E1", "NSCR", "newly solved minus no longer solved, over all that either solved"),
    ("E1", "detectability floor", "a success rate so low that all samples of a problem miss it one time in twenty"),
    ("E1", "gain on problems", "the part of the gain on problems that the base solved in at least one sample"),
    ("E2", "base success, counted", "successes among the base's own samples"),
    ("E2", "base success, PassUntil", "the same, each problem sampled until it has a few successes"),
    (
        "E2",
        "base success, importance",
        "read off samples of both models, weighted by how likely the base was to write them",
    ),
    (
        "E2",
        "effective sample size",
        "how many equally weighted samples that is worth; under about ten it hangs on chance",
    ),
    ("E2", "bits of selection", "how often the base's success rate must double to reach the tuned model's"),
    (
        "E2",
        "base-equivalent budget",
        "base samples among which one succeeds as often as a single sample of the tuned model",
    ),
    (
        "E2",
        "gain within",
        "the part of the gain on problems where 1,000 base samples, if not said otherwise, do as well as one tuned",
    ),
    ("E3", "KL of tuned from base", "how far tuning moved what the model writes"),
    (
        "E3",
        "filtering share",
        "the part of the whole change that selecting right answers needs at least; not a part of the gain itself",
    ),
    ("E3", "filtering", "the least that any model must change to be right as often"),
    ("E3", "mode change", "the change among right answers, to other ways of being right"),
    ("E3", "waste", "the change among wrong answers"),
    ("E3", "KL, summed", "the whole change, measured in another way"),
    ("E3", "parts minus", "a check of the two measurements: its interval should hold 0"),
    ("E4", "shifted tokens", "the tuned model's first choice is beyond the base's first few"),
    (
        "E4",
        "reranked tokens replaced",
        "the part of the greedy gain that comes back when reranked tokens alone are written for the base",
    ),
    ("E4", "reranked tokens", "the tuned model's first choice is among the base's first few, but not its first"),
    ("E4", "entropy where reranked", "how much less sure the base is at reranked tokens"),
    ("E4", "base's second choice", "a control: what the base's own second choice brings at reranked tokens"),
    ("E4", "random likely token", "a control: what as many replacements elsewhere bring"),
    ("E5", "fitted vector", "the part of the gain that the vector brings; trust what exceeds random vectors"),
    ("E5", "random vectors", "a control: what vectors of the same length and no meaning bring"),
    ("E5", "fitted over random", "what the vector brings beyond them"),
    (
        "E8",
        "information gain before",
        "how much likelier the steps make the right answer, up to the step that states it",
    ),
    ("E8", "information gain, whole", "the same over all steps"),
    ("E8", "counterfactual-follow", "with a step falsified, how often the reader ends with what follows from it"),
    ("E8", "early answers", "asked for the answer there, how often the reader is right"),
    ("E10", "KL of base from tuned", "how far tuning moved the model on the task that it was about"),
    ("E10", "old-task drop per nat", "accuracy lost for each nat of that change"),
    ("E10", "old-task drop", "accuracy lost on a task that the tuning was not about"),
)
"""Estimator, how the quantity begins, and its meaning; the first that fits holds."""


def quantity_words(estimator: str, quantity: str) -> str:
    """The meaning in plain words; empty for a quantity that is not known here."""
    return next(
        (words for name, start, words in _MEANINGS if name == estimator and quantity.startswith(start)),
        "",
    )


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
