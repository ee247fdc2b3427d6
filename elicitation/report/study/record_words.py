"""Record words: an estimator's calibration record as one plain phrase."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from elicitation.calibration.leak import Leak
from lab.records.errors import EstimateError
from lab.records.numerals import interval, percent, points

NOT_CALIBRATED = "not calibrated"


def record_words(record: Mapping[str, Any] | None) -> str:
    """What a row of `RECORDS` says, as plain text; None is a share without a record."""
    if record is None:
        return NOT_CALIBRATED
    parts = [_known(record), _silent(record)]
    return "; ".join(part for part in parts if part) or NOT_CALIBRATED


def counted(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


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
        return f"{points(found.gain.value)} points", interval(found.gain.low, found.gain.high)
    return percent(found.share.value, 0), interval(found.share.low, found.share.high, 0)


def silent_figures(found: Leak | None) -> str:
    """The largest gain beyond the control where tuning brought none, plain text; empty where it was not measured."""
    if found is None or found.n_silent == 0:
        return ""
    return f"{points(found.beyond.value)} {interval(found.beyond.low, found.beyond.high)}".rstrip()


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


def rungs(ladder: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Rows of one measure from the base up, each rung's controls right under it; EstimateError if ends are missing."""
    rows = ladder.filter(pl.col("measure") == measure)
    ends = rows.filter(pl.col("kind") == "end")
    if ends.height != 2:
        raise EstimateError(
            f"ladder: {ends.height} {measure} rows of kind 'end'; want two, the base and the tuned model"
        )
    mains = rows.filter(pl.col("kind") != "control")
    controls = rows.filter(pl.col("kind") == "control")
    lost = controls.filter(~pl.col("control_of").fill_null("").is_in(mains["arm"].to_list()))["arm"].to_list()
    if lost:
        raise EstimateError(f"ladder: controls {lost} belong to no arm; let control_of name an arm of the ladder")
    place = mains.select(_main=pl.col("arm"), _place=pl.col("order"))
    return (
        rows.with_columns(_main=pl.col("control_of").fill_null(pl.col("arm")), _top=pl.col("kind") != "control")
        .join(place, on="_main", how="left", maintain_order="left")
        .sort("_place", "_main", "_top", "order", maintain_order=True)
        .drop("_main", "_top", "_place")
    )
