"""Record words: what the calibration knows of an estimator and of a kind of help, as plain phrases."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.calibration.record import PUBLISHED, Leak
from elicitation.pages.kit.markup import counted, markup
from elicitation.pages.kit.numerals import POINTS, WHOLE, percent, remarked

NOT_CALIBRATED = "not calibrated"
GOAL_ERROR, GOAL_COVERAGE = 0.05, 0.93
"""The mean absolute error and the coverage that were set as the goal before any calibration was run."""


def record_words(record: Mapping[str, Any] | None) -> str:
    """What a row of `RECORDS` says, as plain text; None is a share without a record."""
    if record is None:
        return NOT_CALIBRATED
    parts = [_known(record), _silent(record)]
    return "; ".join(part for part in parts if part) or NOT_CALIBRATED


def _known(record: Mapping[str, Any]) -> str:
    """On organisms whose true share is known and defined."""
    n_trials, n_refused = record["n_trials"], record["n_refused"]
    n_given = n_trials - n_refused
    if n_trials == 0:
        return ""
    if n_given == 0:
        return f"on organisms of known share: refused all {n_trials}"
    parts = [f"mean error {100 * record['mean_absolute_error']:.1f} points"]
    held = f"interval held the truth in {percent(record['coverage'], 0)} of {n_given}"
    parts.append("no interval" if math.isnan(record["coverage"]) else held)
    if not math.isnan(record["leak"]):
        parts.append(f"leak {percent(record['leak'], 0)}")
    if n_refused:
        parts.append(f"refused {n_refused} of {n_trials}")
    return f"on organisms of known share: {', '.join(parts)}"


def _silent(record: Mapping[str, Any]) -> str:
    """On organisms with nothing to find."""
    alarms = counted(record["n_false_alarms"], "false alarm")
    return f"{alarms} in {record['n_silent']} with no gain to explain" if record["n_silent"] else ""


def ranking(records: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of `RECORDS` with an answer: those that meet the goal first, each part by mean absolute error.

    One that refused more than half of its trials is left out while there is another, and published methods always.
    """
    n_given = pl.col("n_trials") - pl.col("n_refused")
    judged = records.filter(
        ~pl.col("estimator").is_in(PUBLISHED), n_given > 0, pl.col("mean_absolute_error").is_not_nan()
    )
    ready = judged.filter(2 * n_given >= pl.col("n_trials"))
    rated = judged if ready.is_empty() else ready
    meets = (pl.col("mean_absolute_error") <= GOAL_ERROR) & (pl.col("coverage").fill_nan(0.0) >= GOAL_COVERAGE)
    return rated.with_columns(fails=~meets).sort("fails", "mean_absolute_error", maintain_order=True).to_dicts()


NOT_MEASURED = "not measured"
LEAKY = 0.02
"""An arm that gains more than this accuracy on TAUGHT organisms is said to leak."""


def is_leaky(found: Leak | None) -> bool:
    """Whether the mean gain on TAUGHT organisms exceeds `LEAKY`; what was not measured is not said to leak."""
    return found is not None and found.gain.value > LEAKY


def leak_figures(found: Leak | None) -> tuple[str, str]:
    """(the leak, its interval), plain text: the mean share on TAUGHT, in points of accuracy where none was given."""
    if found is None or math.isnan(found.gain.value):
        return NOT_MEASURED, ""
    if math.isnan(found.share.value):
        return f"{POINTS.write(found.gain.value)} points", POINTS.span(found.gain.low, found.gain.high)
    return WHOLE.write(found.share.value), WHOLE.span(found.share.low, found.share.high)


def leak_cell(found: Leak | None, *remarks: str) -> Markup:
    """The leak in a table, set apart where there is one."""
    value, span = leak_figures(found)
    return remarked(markup('<span class="no">{}</span>', value) if is_leaky(found) else value, span, *remarks)


def silent_figures(found: Leak | None) -> str:
    """The largest gain beyond the control where tuning brought none, plain text; empty where it was not measured."""
    if found is None or found.n_silent == 0:
        return ""
    return POINTS.said(found.beyond._asdict())


def leak_sentence(found: Leak | None) -> str:
    """What a reader must know before trusting an arm's share; empty where it does not leak or was not measured."""
    if found is None or not is_leaky(found):
        return ""
    leaked, span = leak_figures(found)
    of = "" if math.isnan(found.share.value) else " of the gain"
    where = f"{counted(found.n_cases, 'organism')}, {found.n_problems} problems in all"
    return (
        f"It leaks: where all of the gain was taught and none could be elicited ({where}), it still brings "
        f"{f'{leaked} {span}'.rstrip()}{of}, so its share here is no proof that the base model had as much."
    )
