"""Calibration tables: what the trials, the records and the agreement say, number by number, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.calibration.leak import Leak, leak
from elicitation.calibration.record import PUBLISHED, SILENT
from elicitation.report.calibration.answer import ranking
from elicitation.report.kit.canvas import sheet, with_span
from elicitation.report.kit.markup import Reasons, escaped, numbers
from elicitation.report.study.record_words import LEAKY, NOT_CALIBRATED, counted, is_leaky, leak_figures, silent_figures
from lab.records.numerals import ABSENT, interval, percent, points

KINDS = ("LOCKED", "DILUTED", "SHARPENED", "MIXED", "TAUGHT", "ATOMS", "ABSENT", "PLACEBO")
"""From all of the gain elicited, over none of it, to no gain; unknown kinds come last."""
_GIVEN = pl.col("refusal").is_null() & pl.col("value").is_not_nan()


def records_table(records: pl.DataFrame) -> str:
    """The headline figures of every share; says so where there are none."""
    if records.is_empty():
        return f"<p>No estimator has a record: {NOT_CALIBRATED}.</p>"
    headings = (
        "", "Shares given", "Mean error, points", "Largest error, points", "Bias, points", "Interval holds the truth",
        "The same over replicas", "Leak", "False alarms",
    )  # fmt: skip
    return sheet(headings, [_record(row) for row in records.iter_rows(named=True)])


def kinds_table(trials: pl.DataFrame) -> str:
    """Mean share of every estimator on every kind of organism, under the true one."""
    trials = trials.filter(pl.col("truth").is_not_nan() | pl.col("kind").is_in(SILENT))
    present = trials["kind"].unique().to_list()
    kinds = [*(kind for kind in KINDS if kind in present), *sorted(set(present) - set(KINDS))]
    cases = trials.unique("case", keep="first", maintain_order=True).filter(pl.col("truth").is_not_nan())
    truths = dict(cases.group_by("kind").agg(pl.col("truth").mean()).iter_rows())
    first = ("<em>true share</em>", *(percent(truths[kind], 0) if kind in truths else "none" for kind in kinds))
    cells = trials.group_by("estimator", "quantity", "kind", maintain_order=True).agg(
        mean=pl.col("value").filter(_GIVEN).mean(), refused=(~_GIVEN).sum(), n=pl.len()
    )
    found = {(row["estimator"], row["quantity"], row["kind"]): row for row in cells.iter_rows(named=True)}
    rows = [
        (_name(estimator, quantity), *(_kind(found.get((estimator, quantity, kind))) for kind in kinds))
        for estimator, quantity in _shares(trials)
    ]
    return sheet(("", *kinds), [first, *rows])


def alarms_table(trials: pl.DataFrame) -> str:
    """What every estimator said of `SILENT` organisms, and why it refused where it did."""
    silent = trials.filter(pl.col("kind").is_in(SILENT))
    if silent.is_empty():
        return "<p>No PLACEBO or ABSENT organism was tried.</p>"
    reasons = Reasons.of(_reason(row) for row in silent.iter_rows(named=True) if row["refusal"] is not None)
    rows = []
    for estimator, quantity in _shares(silent):
        mine = silent.filter(pl.col("estimator") == estimator, pl.col("quantity") == quantity)
        rows.append((_name(estimator, quantity), *(_silent(mine, kind, reasons) for kind in SILENT)))
    return sheet(("", *SILENT), rows, SILENT) + reasons.notes()


def refused_list(trials: pl.DataFrame) -> str:
    """Trials that have no place in the figure though their kind has, with the reason; empty where there are none."""
    groundless = trials.filter(pl.col("truth").is_nan(), ~pl.col("kind").is_in(SILENT))["case"].unique(
        maintain_order=True
    )
    lost = trials.filter(pl.col("truth").is_not_nan(), ~_GIVEN, ~pl.col("kind").is_in(SILENT))
    grouped = (
        lost.with_columns(pl.col("refusal").fill_null("the estimate is undefined"))
        .group_by("case", "refusal", maintain_order=True)
        .agg(pl.col("estimator").unique(maintain_order=True))
    )
    items = "".join(
        f"<li><b>{escaped(case)}</b>, {escaped(', '.join(estimators))}: {escaped(refusal)}</li>"
        for case, refusal, estimators in grouped.iter_rows()
    )
    left_out = (
        f"<p>Left out of the figure and the records, because tuning brought no gain to have a true share: "
        f"{escaped(', '.join(groundless))}.</p>"
        if len(groundless)
        else ""
    )
    refused = f"<p>Not drawn, because refused:</p><ul>{items}</ul>" if items else ""
    return f'<div class="refusals">{refused}{left_out}</div>' if refused or left_out else ""


def agreement_table(agreement: pl.DataFrame) -> str:
    """Every two shares that met on at least one trial."""
    met = agreement.filter(pl.col("n_trials") > 0)
    if met.is_empty():
        return "<p>No two estimators gave a share on the same trial.</p>"
    rows = [
        (
            f'{escaped(row["first"])}<span class="what">and {escaped(row["second"])}</span>',
            str(row["n_trials"]),
            points(row["mean_absolute_difference"]).removeprefix("+"),
            points(row["largest_difference"]).removeprefix("+"),
        )
        for row in met.iter_rows(named=True)
    ]
    return sheet(("", "Trials", "Mean difference, points", "Largest difference, points"), rows)


def cost_table(trials: pl.DataFrame) -> str:
    """Seconds that the evidence of one estimator alone cost, beyond sampling the two models."""
    cost = trials.group_by("estimator", "quantity", maintain_order=True).agg(
        mean=pl.col("seconds").drop_nans().mean(), total=pl.col("seconds").drop_nans().sum(), n=pl.len()
    )
    rows = [
        (_name(row["estimator"], row["quantity"]), str(row["n"]), _seconds(row["mean"]), _seconds(row["total"]))
        for row in cost.iter_rows(named=True)
    ]
    return sheet(("", "Trials", "Seconds a trial", "Seconds in all"), rows)


def path_table(path: pl.DataFrame) -> str:
    """Every row of the path test."""
    rows = [
        (
            f'{escaped(row["route"])}<span class="what">{escaped(row["base"])}, {escaped(row["task"])}</span>',
            with_span(percent(row["value"]), interval(row["low"], row["high"])),
        )
        for row in path.iter_rows(named=True)
    ]
    return sheet(("", "Solved at the first try"), rows)


def forgetting_table(forgetting: pl.DataFrame) -> str:
    """Every mark of the scatter."""
    rows = [
        (escaped(row["case"]), f"{row['kl']:.2f}".replace("nan", ABSENT), points(row["drop"]))
        for row in forgetting.iter_rows(named=True)
    ]
    return sheet(("", "Divergence, nats", "Accuracy lost, points"), rows)


def _record(row: Mapping[str, Any]) -> tuple[str, ...]:
    n_given = row["n_trials"] - row["n_refused"]
    return (
        _name(row["estimator"], row["quantity"]),
        f"{n_given} of {row['n_trials']}",
        points(row["mean_absolute_error"]).removeprefix("+"),
        points(row["worst_error"]).removeprefix("+"),
        points(row["bias"]),
        "no interval" if math.isnan(row["coverage"]) and n_given else percent(row["coverage"], 0),
        percent(row["coverage_replicas"], 0),
        percent(row["leak"], 0),
        f"{row['n_false_alarms']} in {row['n_silent']}" if row["n_silent"] else ABSENT,
    )


def _kind(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ABSENT
    if cell["mean"] is None:
        return with_span("refused", f"all {cell['n']}")
    return with_span(percent(cell["mean"], 0), f"{cell['refused']}/{cell['n']} refused" if cell["refused"] else "")


def _silent(mine: pl.DataFrame, kind: str, reasons: Reasons) -> str:
    """`refused 2 of 3`, and every share that was given."""
    rows = mine.filter(pl.col("kind") == kind).to_dicts()
    if not rows:
        return ABSENT
    why = [_reason(row) for row in rows if row["refusal"] is not None]
    given = [row for row in rows if row["refusal"] is None]
    parts = [f"refused {len(why)} of {len(rows)}{reasons.marks(why)}", *(_given(row) for row in given)]
    return "<br>".join(parts)


def _given(row: Mapping[str, Any]) -> str:
    alarm = row["value"] > 0 or (row["kind"] == "PLACEBO" and row["value"] == row["value"])
    said = f"{escaped(row['case'])}: {percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}"
    return f'<span class="no">false alarm</span> {said}' if alarm else said


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row['case']}: {row['refusal']}"


def _shares(trials: pl.DataFrame) -> list[tuple[Any, ...]]:
    return trials.select("estimator", "quantity").unique(maintain_order=True).rows()


def _name(estimator: str, quantity: str) -> str:
    role = '<span class="role">rival</span> ' if estimator in PUBLISHED else ""
    return f'{role}{escaped(estimator)}<span class="what">{escaped(quantity)}</span>'


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}".replace(",", "\u202f")


_HEADINGS = ("", "Leak: share on TAUGHT", "Gain there, points", "Largest gain over control on ABSENT, points")


def leaks_table(leaks: pl.DataFrame) -> str:
    """Which arms of `LEAKS` leak, in a sentence, and all of them in a folded table, the leakiest first."""
    found = {arm: known for arm in leaks["arm"].unique(maintain_order=True) if (known := leak(leaks, arm)) is not None}
    ranked = sorted(found, key=lambda arm: found[arm].gain.value if found[arm].n_cases else -1.0, reverse=True)
    leaky = [arm for arm in ranked if is_leaky(found[arm])]
    limit = f"{100 * LEAKY:g} points"
    said = f"{len(leaky)} of {len(ranked)} gain more than {limit} there" + (f": {', '.join(leaky)}" if leaky else "")
    rows = [_row(arm, found[arm]) for arm in ranked]
    return f"<p>{escaped(said)}.</p>{numbers('Every kind of help and every control', sheet(_HEADINGS, rows))}"


def _row(arm: str, found: Leak) -> tuple[str, ...]:
    share, ends = leak_figures(found)
    flagged = f'<span class="no">{escaped(share)}</span>' if is_leaky(found) else escaped(share)
    gain = found.gain
    return (
        escaped(arm),
        with_span(flagged, ends),
        with_span(points(gain.value), interval(gain.low, gain.high)) if found.n_cases else ABSENT,
        escaped(silent_figures(found)) or ABSENT,
    )


DRAWN = "P1"
"""The rival whose vectors come out another way with each fit, and its result with them."""
_ONE_DRAW = (
    f"<p>What {DRAWN} reaches depends on how its vectors came out of their fit: each trial is one draw of a fit, and "
    "another may err less or more.</p>"
)


def published_records(records: pl.DataFrame) -> str:
    """Error, coverage and leak of every rival of `RECORDS` in a sentence each, as HTML; empty where none was run."""
    published = records.filter(pl.col("estimator").is_in(PUBLISHED), pl.col("n_trials") > 0)
    if published.is_empty():
        return ""
    best = next(iter(ranking(records)), None)
    rows = [*published.iter_rows(named=True), *([] if best is None else [best])]
    items = "".join(f"<li>{escaped(_sentence(row))}</li>" for row in rows)
    last = "" if best is None else ", and the best of the lab's own, last"
    note = _ONE_DRAW if DRAWN in published["estimator"] else ""
    return (
        f'<div class="refusals"><p>Two published methods on the same organisms{last}:</p><ul>{items}</ul>{note}</div>'
    )


def _sentence(row: Mapping[str, Any]) -> str:
    n_given = row["n_trials"] - row["n_refused"]
    name = f"{row['estimator']} ({row['quantity']})"
    if n_given == 0:
        return f"{name} refused all {counted(row['n_trials'], 'trial')}."
    errs = f"errs by {100 * row['mean_absolute_error']:.1f} points on average"
    holds = f"its interval holds the truth in {percent(row['coverage'], 0)} of {counted(n_given, 'trial')}"
    holds = f"it gave no interval in {counted(n_given, 'trial')}" if math.isnan(row["coverage"]) else holds
    finds = "" if math.isnan(row["leak"]) else f", and it finds {percent(row['leak'], 0)} where the true share is 0"
    return f"{name} {errs}; {holds}{finds}."
