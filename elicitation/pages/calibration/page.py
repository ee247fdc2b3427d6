"""Calibration page: how well the estimators did where the truth is known: tables, the answer, the page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl
from markupsafe import Markup
from rich.table import Table

from elicitation.calibration.record import AGREEMENT, LEAKS, NOT_MEASURED, PUBLISHED, RECORDS, SILENT, TRIALS, leak
from elicitation.pages import record_words as words
from elicitation.pages.calibration import figures
from elicitation.pages.kit.canvas import plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.markup import counted, filled, grouped, joined, markup
from elicitation.pages.kit.numerals import ABSENT, PERCENT, POINTS, WHOLE, fixed, percent, points, remarked
from elicitation.pages.kit.table import ROOM_FOR_ALL, Line, Reasons, numbers, sheet, terminal_table, titled

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
    line = figures.fitted_line(forgetting)
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
    leaky = [arm for arm in ranked if words.is_leaky(found[arm])]
    said = f"{len(leaky)} of {len(ranked)} gain more than {100 * words.LEAKY:g} points there"
    said += f": {', '.join(leaky)}" if leaky else ""
    headings = ("", "Leak: share on TAUGHT", "Gain there, points", "Largest gain over control on ABSENT, points")
    rows = []
    for arm in ranked:
        gain = POINTS.cell(found[arm].gain._asdict()) if found[arm].n_cases else ABSENT
        rows.append((arm, words.leak_cell(found[arm]), gain, words.silent_figures(found[arm]) or ABSENT))
    return markup("<p>{}.</p>{}", said, numbers("Every kind of help and every control", sheet(headings, rows)))


def published_records(records: pl.DataFrame) -> Markup:
    """Error, coverage and leak of every published method of `RECORDS` in a sentence each; empty where none was run."""
    published = records.filter(pl.col("estimator").is_in(PUBLISHED), pl.col("n_trials") > 0)
    said, best = (list(map(_sentence, rows)) for rows in (published.iter_rows(named=True), words.ranking(records)[:1]))
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


_NONE = "Not calibrated: no estimator gave a share of a gain whose true share is known."


def calibration_answer(records: pl.DataFrame) -> str:
    """One sentence on `RECORDS`."""
    ranked = words.ranking(records)
    if not ranked:
        return _NONE
    best = ranked[0]
    among = f", the best of {len(ranked)} by these same trials," if len(ranked) > 1 else ""
    return (
        f"On {counted(best['n_trials'], 'trial')} with a known share, {best['estimator']} ({best['quantity']}){among} "
        f"errs by {_points(best['mean_absolute_error'])} on average, {_coverage(best)}, and raises {_alarms(best)}: "
        f"{_goal(best)}."
    )


def _coverage(best: Mapping[str, Any]) -> str:
    n_trials, n_given = best["n_trials"], best["n_trials"] - best["n_refused"]
    which = f"the {n_given} it answered" if n_given < n_trials else "them"
    return f"its 95 % interval holds the truth in {percent(best['coverage'], 0)} of {which}"


def _alarms(best: Mapping[str, Any]) -> str:
    if best["n_silent"] == 0:
        return "no false alarm, but was not tried where there is no gain to explain"
    alarms = best["n_false_alarms"]
    where = f"{counted(best['n_silent'], 'trial')} without a gain to explain"
    return f"{counted(alarms, 'false alarm') if alarms else 'no false alarm'} in {where}"


def _goal(best: Mapping[str, Any]) -> str:
    goal = f"the goal of at most {_points(words.GOAL_ERROR, 0)} and at least {percent(words.GOAL_COVERAGE, 0)}"
    close, covers = best["mean_absolute_error"] <= words.GOAL_ERROR, best["coverage"] >= words.GOAL_COVERAGE
    if close and covers:
        return f"{goal} is met"
    if not close and not covers:
        return f"{goal} is missed for both"
    error, coverage = ("met" if met else "missed" for met in (close, covers))
    return f"{goal} is {error} for the error and {coverage} for the coverage"


def _points(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} points"


_COLUMNS = ("", "given", "error", "worst", "bias", "coverage", "replicas", "leak", "false alarms", "seconds")
WIDE_ONLY = ("worst", "bias", "replicas", "seconds")


def calibration_summary(records: pl.DataFrame, width: int = ROOM_FOR_ALL) -> Table:
    """`RECORDS` as a table for a terminal of `width` columns, the answer below; errors are in points."""
    rows = [
        Line(
            (
                f"{row['estimator']} {row['quantity']}",
                f"{row['n_trials'] - row['n_refused']}/{row['n_trials']}",
                *(points(row[name]).removeprefix("+") for name in ("mean_absolute_error", "worst_error")),
                points(row["bias"]),
                *(percent(row[name], 0) for name in ("coverage", "coverage_replicas", "leak")),
                f"{row['n_false_alarms']}/{row['n_silent']}",
                fixed(row["seconds"], 1),
            )
        )
        for row in records.iter_rows(named=True)
    ]
    title, below = "Estimators where the true share is known", calibration_answer(records)
    return terminal_table(title, _COLUMNS, rows, width, wide_only=WIDE_ONLY, below=below)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationPage:
    """All that the page needs; every string in it may come from anyone. A table without rows leaves its section out."""

    title: str
    trials: pl.DataFrame
    """`TRIALS`."""
    records: pl.DataFrame
    """`RECORDS` of these trials; without rows the page says that nothing is calibrated."""
    agreement: pl.DataFrame
    """`AGREEMENT` of these trials."""
    forgetting: pl.DataFrame
    """`FORGETTING`."""
    path: pl.DataFrame
    """`PATH`."""
    minutes: float
    """What the whole calibration took."""
    origin: Origin
    leaks: pl.DataFrame = field(default_factory=NOT_MEASURED.clear)
    """`LEAKS` that studies of real pairs are warned by."""

    def __post_init__(self) -> None:
        for schema in (TRIALS, RECORDS, AGREEMENT, figures.FORGETTING, figures.PATH, LEAKS):
            schema.checked(getattr(self, schema.name))


def render_calibration(page: CalibrationPage) -> str:
    """The page as HTML; equal pages give equal text."""
    trials = page.trials
    return document(
        "calibration/page.html",
        page.title,
        page.origin,
        plot_block=plot_block,
        numbers=numbers,
        page=page,
        answer=calibration_answer(page.records),
        drawn=figures.drawable(trials).height,
        share_key=figures.share_key(trials),
        draw_shares=partial(figures.share_panels, trials),
        refused=refused_list(trials),
        published=published_records(page.records),
        records=records_table(page.records),
        kinds=kinds_table(trials),
        alarms=alarms_table(trials),
        agreement=agreement_table(page.agreement),
        draw_path=partial(figures.path_plot, page.path),
        path=path_table(page.path),
        leaks=leaks_table(page.leaks),
        fit=forgetting_words(page.forgetting),
        draw_forgetting=partial(figures.forgetting_scatter, page.forgetting),
        forgetting=forgetting_table(page.forgetting),
        took="" if math.isnan(page.minutes) else f"The whole calibration took {page.minutes:,.0f} minutes.",
        cost=cost_table(trials),
    )
