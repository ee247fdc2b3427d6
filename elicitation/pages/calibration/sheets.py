"""The tables of a calibration's page: what trials, records and leaks say, number by number, as HTML."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.calibration.record import PUBLISHED, SILENT, leak
from elicitation.pages.calibration.figures import fitted_line
from elicitation.pages.kit.markup import counted, filled, grouped, joined, markup
from elicitation.pages.kit.numerals import ABSENT, PERCENT, POINTS, WHOLE, percent, points, remarked
from elicitation.pages.kit.table import Reasons, numbers, sheet, titled
from elicitation.pages.record_words import LEAKY, is_leaky, leak_cell, ranking, silent_figures

KINDS = ("LOCKED", "DILUTED", "SHARPENED", "MIXED", "TAUGHT", "ATOMS", "ABSENT", "PLACEBO")
"""From all of the gain elicited, over none of it, to no gain; unknown kinds come last."""
_GIVEN = pl.col("refusal").is_null() & pl.col("value").is_not_nan()


def records_table(records: pl.DataFrame) -> Markup:
    """The headline figures of every share."""
    headings = (
        "", "Shares given", "Mean error, points", "Largest error, points", "Bias, points", "Interval holds the truth",
        "The same over replicas", "Leak", "False alarms",
    )  # fmt: skip
    return sheet(headings, [_record(row) for row in records.iter_rows(named=True)])


def kinds_table(trials: pl.DataFrame) -> Markup:
    """Mean share of every estimator on every kind of organism, under the true one."""
    trials = trials.filter(pl.col("truth").is_not_nan() | pl.col("kind").is_in(SILENT))
    present = trials["kind"].unique().to_list()
    kinds = [*(kind for kind in KINDS if kind in present), *sorted(set(present) - set(KINDS))]
    cases = trials.unique("case", keep="first", maintain_order=True).filter(pl.col("truth").is_not_nan())
    truths = dict(cases.group_by("kind").agg(pl.col("truth").mean()).iter_rows())
    first = (Markup("<em>true share</em>"), *(percent(truths[kind], 0) if kind in truths else "none" for kind in kinds))
    cells = trials.group_by("estimator", "quantity", "kind", maintain_order=True).agg(
        mean=pl.col("value").filter(_GIVEN).mean(), refused=(~_GIVEN).sum(), n=pl.len()
    )
    found = {(row["estimator"], row["quantity"], row["kind"]): row for row in cells.iter_rows(named=True)}
    rows = [
        (_name(estimator, quantity), *(_kind(found.get((estimator, quantity, kind))) for kind in kinds))
        for estimator, quantity in _shares(trials)
    ]
    return sheet(("", *kinds), [first, *rows])


def alarms_table(trials: pl.DataFrame) -> Markup:
    """What every estimator said of `SILENT` organisms, and why it refused where it did."""
    silent = trials.filter(pl.col("kind").is_in(SILENT))
    reasons = Reasons.of(_reason(row) for row in silent.filter(pl.col("refusal").is_not_null()).iter_rows(named=True))
    rows = []
    for estimator, quantity in _shares(silent):
        mine = silent.filter(pl.col("estimator") == estimator, pl.col("quantity") == quantity)
        rows.append((_name(estimator, quantity), *(_silent(mine, kind, reasons) for kind in SILENT)))
    return sheet(("", *SILENT), rows, SILENT) + reasons.notes()


def refused_list(trials: pl.DataFrame) -> Markup:
    """Trials that have no place in the figure though their kind has, with the reason; empty where there are none."""
    loud = trials.filter(~pl.col("kind").is_in(SILENT))
    refused = (
        loud.filter(pl.col("truth").is_not_nan(), ~_GIVEN)
        .group_by("case", pl.col("refusal").fill_null("the estimate is undefined"), maintain_order=True)
        .agg(pl.col("estimator").unique(maintain_order=True))
    )
    groundless = loud.filter(pl.col("truth").is_nan())["case"].unique(maintain_order=True).to_list()
    return filled("calibration/refused.html", refused=refused.rows(), groundless=groundless)


def agreement_table(agreement: pl.DataFrame) -> Markup:
    """Every two shares that met on at least one trial."""
    rows = [
        (
            titled(row["first"], f"and {row['second']}"),
            str(row["n_trials"]),
            *(points(row[name]).removeprefix("+") for name in ("mean_absolute_difference", "largest_difference")),
        )
        for row in agreement.filter(pl.col("n_trials") > 0).iter_rows(named=True)
    ]
    return sheet(("", "Trials", "Mean difference, points", "Largest difference, points"), rows)


def cost_table(trials: pl.DataFrame) -> Markup:
    """Seconds that the evidence of one estimator alone cost, beyond sampling the two models."""
    cost = trials.group_by("estimator", "quantity", maintain_order=True).agg(
        mean=pl.col("seconds").drop_nans().mean(), total=pl.col("seconds").drop_nans().sum(), n=pl.len()
    )
    rows = [
        (_name(row["estimator"], row["quantity"]), str(row["n"]), _seconds(row["mean"]), _seconds(row["total"]))
        for row in cost.iter_rows(named=True)
    ]
    return sheet(("", "Trials", "Seconds a trial", "Seconds in all"), rows)


def path_table(path: pl.DataFrame) -> Markup:
    """Every row of the path test."""
    rows = path.iter_rows(named=True)
    named = [(titled(row["route"], f"{row['base']}, {row['task']}"), PERCENT.cell(row)) for row in rows]
    return sheet(("", "Solved at the first try"), named)


def forgetting_table(forgetting: pl.DataFrame) -> Markup:
    """Every mark of the scatter."""
    rows = forgetting.iter_rows(named=True)
    cells = [(row["case"], f"{row['kl']:.2f}".replace("nan", ABSENT), points(row["drop"])) for row in rows]
    return sheet(("", "Divergence, nats", "Accuracy lost, points"), cells)


def forgetting_words(forgetting: pl.DataFrame) -> str:
    """Slope and fit of the scatter in one sentence."""
    line = fitted_line(forgetting)
    if math.isnan(line.slope):
        return f"No line can be fitted to n = {line.n}: that needs three cases that diverge differently."
    fit = "" if math.isnan(line.r_squared) else f", R² = {line.r_squared:.2f}".replace("-", "−")
    return f"A nat of divergence goes with {points(line.slope)} points of accuracy lost{fit} (n = {line.n})."


def _record(row: Mapping[str, Any]) -> tuple[str, ...]:
    n_given = row["n_trials"] - row["n_refused"]
    return (
        _name(row["estimator"], row["quantity"]),
        f"{n_given} of {row['n_trials']}",
        *(points(row[name]).removeprefix("+") for name in ("mean_absolute_error", "worst_error")),
        points(row["bias"]),
        "no interval" if math.isnan(row["coverage"]) and n_given else percent(row["coverage"], 0),
        *(percent(row[name], 0) for name in ("coverage_replicas", "leak")),
        f"{row['n_false_alarms']} in {row['n_silent']}" if row["n_silent"] else ABSENT,
    )


def _kind(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ABSENT
    if cell["mean"] is None:
        return remarked("refused", f"all {cell['n']}")
    return remarked(percent(cell["mean"], 0), f"{cell['refused']}/{cell['n']} refused" if cell["refused"] else "")


def _silent(mine: pl.DataFrame, kind: str, reasons: Reasons) -> str:
    """`refused 2 of 3`, and every share that was given."""
    rows = mine.filter(pl.col("kind") == kind).to_dicts()
    if not rows:
        return ABSENT
    why = [_reason(row) for row in rows if row["refusal"] is not None]
    given = [row for row in rows if row["refusal"] is None]
    said = markup("refused {} of {}{}", len(why), len(rows), reasons.marks(why))
    return joined((said, *(_given(row) for row in given)), "<br>")


def _given(row: Mapping[str, Any]) -> str:
    alarm = row["value"] > 0 or (row["kind"] == "PLACEBO" and row["value"] == row["value"])
    said = f"{row['case']}: {WHOLE.said(row)}"
    return markup('<span class="no">false alarm</span> {}', said) if alarm else said


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row['case']}: {row['refusal']}"


def _shares(trials: pl.DataFrame) -> list[tuple[Any, ...]]:
    return trials.select("estimator", "quantity").unique(maintain_order=True).rows()


def _name(estimator: str, quantity: str) -> Markup:
    role = Markup('<span class="role">published</span> ' if estimator in PUBLISHED else "")
    return role + titled(estimator, quantity)


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else grouped(value, 1)


def leaks_table(leaks: pl.DataFrame) -> Markup:
    """Which arms of `LEAKS` leak, in a sentence, and all of them in a folded table, the leakiest first."""
    found = {arm: known for arm in leaks["arm"].unique(maintain_order=True) if (known := leak(leaks, arm)) is not None}
    ranked = sorted(found, key=lambda arm: found[arm].gain.value if found[arm].n_cases else -1.0, reverse=True)
    leaky = [arm for arm in ranked if is_leaky(found[arm])]
    said = f"{len(leaky)} of {len(ranked)} gain more than {100 * LEAKY:g} points there"
    said += f": {', '.join(leaky)}" if leaky else ""
    headings = ("", "Leak: share on TAUGHT", "Gain there, points", "Largest gain over control on ABSENT, points")
    rows = []
    for arm in ranked:
        gain = POINTS.cell(found[arm].gain._asdict()) if found[arm].n_cases else ABSENT
        rows.append((arm, leak_cell(found[arm]), gain, silent_figures(found[arm]) or ABSENT))
    return markup("<p>{}.</p>{}", said, numbers("Every kind of help and every control", sheet(headings, rows)))


def published_records(records: pl.DataFrame) -> Markup:
    """Error, coverage and leak of every published method of `RECORDS` in a sentence each; empty where none was run."""
    published = records.filter(pl.col("estimator").is_in(PUBLISHED), pl.col("n_trials") > 0)
    said, best = (list(map(_sentence, rows)) for rows in (published.iter_rows(named=True), ranking(records)[:1]))
    names = published["estimator"].to_list()
    return filled("calibration/published.html", said=said, best=best, names=names) if said else Markup("")


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
