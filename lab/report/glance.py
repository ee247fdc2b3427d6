"""Glance: what was compared, what was found and how sure that is, for the first screen of a report, as HTML."""

import polars as pl

from lab.report.best_estimate import best_estimate
from lab.report.markup import escaped
from lab.report.numerals import percent
from lab.report.record_words import counted
from lab.report.rungs import rungs


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
