"""Record words: an estimator's calibration record as one plain phrase."""

import math
from collections.abc import Mapping
from typing import Any

from lab.report.numerals import percent

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
